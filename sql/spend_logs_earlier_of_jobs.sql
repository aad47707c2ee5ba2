-- Of each row given, which looked at a finished job, the nearest earlier row of three kinds, of equal charge ID and key:
-- `look`, another look that billed the same spend and tokens; `call`, a call for a response that did; `background`, a call
-- for a response that cost nothing itself. LiteLLM bills a finished job at each look.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set charge_column team_id
-- \set request_ids '{"batch_1_batch_cost"}'
-- \set starts '{"2026-11-20 10:00:00.000"}'
-- \set charge_ids '{"team-a"}'
-- \set api_keys '{"88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"}'
-- \set spends '{0.00027}'
-- \set prompt_tokens '{1200}'
-- \set completion_tokens '{600}'
-- \set start_from '2026-11-13 10:00:00.000'
-- \set start_to '2026-11-20 10:00:00.001'
SELECT DISTINCT ON (job.request_id, job.start_time, kind)
  log.request_id,
  log."startTime" AS start_time,
  log."endTime" AS end_time,
  coalesce(log.:"charge_column", '') AS charge_id,
  log.api_key,
  log.call_type,
  log.spend,
  log.prompt_tokens,
  log.completion_tokens,
  log.total_tokens,
  coalesce(log.session_id, '') AS session_id,
  coalesce(log.litellm_call_id, '') AS litellm_call_id,
  CASE
    WHEN log.call_type NOT IN ('aresponses', 'responses') THEN 'look'
    WHEN log.spend = job.spend THEN 'call'
    ELSE 'background'
  END AS kind
FROM unnest(
  CAST(:'request_ids' AS text[]), CAST(:'starts' AS timestamp[]), CAST(:'charge_ids' AS text[]),
  CAST(:'api_keys' AS text[]), CAST(:'spends' AS double precision[]), CAST(:'prompt_tokens' AS integer[]),
  CAST(:'completion_tokens' AS integer[])
) AS job (request_id, start_time, charge_id, api_key, spend, prompt_tokens, completion_tokens)
JOIN :"schema".:"table" AS log
  ON log.api_key = job.api_key
  AND coalesce(log.:"charge_column", '') = job.charge_id
  AND (log."startTime", log.request_id) < (job.start_time, job.request_id)
  AND (
    (
      log.spend = job.spend
      AND log.prompt_tokens = job.prompt_tokens
      AND log.completion_tokens = job.completion_tokens
    )
    OR (log.spend = 0 AND log.total_tokens = 0 AND log.call_type IN ('aresponses', 'responses'))
  )
WHERE log."startTime" >= :'start_from'
  AND log."startTime" < :'start_to'
  AND log.call_type IN (
    'aget_responses', 'aretrieve_batch', 'acreate_batch', 'afile_retrieve', 'aresponses', 'responses'
  )
ORDER BY job.request_id, job.start_time, kind, log."startTime" DESC;
