-- Who has usage in a range, by charge ID: rows that are not failures, their spend (USD), and how much of both lies before
-- an instant; and the first and the last usage time. A spend that is no amount counts 0. Reads every row of the range.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set charge_column team_id
-- \set start_from '2026-10-21 00:00:00'
-- \set start_to '2026-11-25 00:00:00'
-- \set split '2026-11-01 00:00:00'
SELECT
  charge_id,
  count(*) AS rows,
  CAST(sum(amount) AS text) AS spend,
  count(*) FILTER (WHERE usage_time < :'split') AS earlier_rows,
  CAST(coalesce(sum(amount) FILTER (WHERE usage_time < :'split'), 0) AS text) AS earlier_spend,
  min(usage_time) AS first_usage,
  max(usage_time) AS last_usage
FROM (
  SELECT
    coalesce(:"charge_column", '') AS charge_id,
    "endTime" AS usage_time,
    CASE WHEN spend > 0 AND spend < 'Infinity' THEN CAST(spend AS numeric) ELSE 0 END AS amount
  FROM :"schema".:"table"
  WHERE "startTime" >= :'start_from'
    AND "startTime" < :'start_to'
    AND "endTime" >= :'start_from'
    AND "endTime" < :'start_to'
    AND coalesce(status, '') <> 'failure'
) AS usage
GROUP BY charge_id;
