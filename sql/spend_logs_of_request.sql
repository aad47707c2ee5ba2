-- The rows of one request ID, for a person to look at, with every ID that a charge could go by. Mostly one; LiteLLM's
-- IDs can come again. A time that cannot be (infinite, or centuries away) reads as null: no window holds such a row.
-- A column that an older LiteLLM does not have yet is read as ''.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set charge_column team_id
-- \set request_id chatcmpl-1
SELECT
  request_id,
  CASE WHEN "startTime" >= '1970-01-01' AND "startTime" < '2200-01-01' THEN "startTime" END AS start_time,
  CASE WHEN "endTime" >= '1970-01-01' AND "endTime" < '2200-01-01' THEN "endTime" END AS end_time,
  model,
  coalesce(model_group, '') AS model_group,
  coalesce(custom_llm_provider, '') AS provider,
  spend,
  prompt_tokens,
  completion_tokens,
  total_tokens,
  coalesce(:"charge_column", '') AS charge_id,
  coalesce(status, '') AS status,
  coalesce(cache_hit, '') AS cache_hit,
  call_type,
  coalesce(end_user, '') AS end_user_id,
  coalesce("user", '') AS user_id,
  coalesce(team_id, '') AS team_id,
  coalesce(organization_id, '') AS organization_id
FROM :"schema".:"table"
WHERE request_id = :'request_id';
