-- LiteLLM's own daily totals per entity: fed by another queue than the spend log, so that a gap hints at lost rows.
-- `date` is text: the UTC day of "startTime".
-- \set schema public
-- \set table LiteLLM_DailyTeamSpend
-- \set entity_column team_id
-- \set day_from 2026-11-20
-- \set day_to 2026-11-20
SELECT
  date AS day,
  coalesce(:"entity_column", '') AS charge_id,
  sum(api_requests)::bigint AS requests,
  sum(prompt_tokens + completion_tokens)::bigint AS tokens,
  sum(spend) AS spend
FROM :"schema".:"table"
WHERE date >= :'day_from'
  AND date <= :'day_to'
GROUP BY 1, 2;
