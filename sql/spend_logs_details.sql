-- Chosen rows of the spend log, by request ID and start, with what tells whether one call was written twice or a job
-- fetched again. `metadata` is up to 10 kB a row: it is read for these few rows alone, and where the column is empty.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set charge_column team_id
-- \set request_ids '{"chatcmpl-1","chatcmpl-2"}'
-- \set starts '{"2026-11-20 10:00:00.000","2026-11-20 10:00:01.500"}'
-- \set start_from '2026-11-20 10:00:00.000'
-- \set start_to '2026-11-20 10:00:01.501'
SELECT
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
  coalesce(
    nullif(coalesce(log.litellm_call_id, ''), ''), coalesce(log.metadata ->> 'litellm_call_id', '')
  ) AS litellm_call_id
FROM unnest(CAST(:'request_ids' AS text[]), CAST(:'starts' AS timestamp[])) AS chosen (request_id, start_time)
JOIN :"schema".:"table" AS log
  ON log.request_id = chosen.request_id
  AND log."startTime" >= chosen.start_time
  AND log."startTime" < chosen.start_time + interval '1 millisecond'
WHERE log."startTime" >= :'start_from'
  AND log."startTime" < :'start_to';
