-- Rows of the sessions given that began within ten seconds of the starts given (the rows themselves among them):
-- LiteLLM 1.102 and some after it wrote a call that it bridged to another API twice, milliseconds apart.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set charge_column team_id
-- \set sessions '{"7f3a6b0e-0000-4000-8000-000000000000"}'
-- \set starts '{"2026-11-20 10:00:00.000"}'
-- \set start_from '2026-11-20 09:59:50.000'
-- \set start_to '2026-11-20 10:00:10.001'
SELECT DISTINCT
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
FROM unnest(CAST(:'sessions' AS text[]), CAST(:'starts' AS timestamp[])) AS known (session_id, start_time)
JOIN :"schema".:"table" AS log
  ON log.session_id = known.session_id
  AND log."startTime" >= known.start_time - interval '10 seconds'
  AND log."startTime" <= known.start_time + interval '10 seconds'
WHERE log."startTime" >= :'start_from'
  AND log."startTime" < :'start_to';
