-- LiteLLM's own daily totals per entity, fed by another queue than the spend log: where they say more, the spend log
-- has lost rows. `date` is text: the UTC day of "startTime". `successful` leaves out failures, LiteLLM's internal calls
-- and its retries; spend and tokens hold them all. Sums beyond what a number holds are errors: what is that large counts
-- as the largest that is none.
-- \set schema public
-- \set table LiteLLM_DailyTeamSpend
-- \set entity_column team_id
-- \set day_from 2026-11-20
-- \set day_to 2026-11-20
SELECT
  date AS day,
  coalesce(:"entity_column", '') AS charge_id,
  least(sum(prompt_tokens::numeric + completion_tokens), 9223372036854775807)::bigint AS tokens,
  coalesce(sum(least(greatest(spend, -1e300), 1e300)) FILTER (WHERE spend <> 'NaN'), 0) AS spend,
  sum(coalesce(successful_requests, 0))::bigint AS successful
FROM :"schema".:"table"
WHERE date >= :'day_from'
  AND date <= :'day_to'
GROUP BY 1, 2;
