-- Rows of the spend log by their start (indexed) and their end (the usage time, not indexed). Timestamps are UTC.
-- A column that an older LiteLLM does not have yet is read as ''.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set charge_column team_id
-- \set start_from '2026-11-20 00:00:00'
-- \set start_to '2026-11-20 01:05:00'
-- \set end_from '2026-11-20 00:00:00'
-- \set end_to '2026-11-21 00:00:00'
SELECT
  request_id,
  "startTime" AS start_time,
  "endTime" AS end_time,
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
  call_type
FROM :"schema".:"table"
WHERE "startTime" >= :'start_from'
  AND "startTime" < :'start_to'
  AND "endTime" >= :'end_from'
  AND "endTime" < :'end_to';
