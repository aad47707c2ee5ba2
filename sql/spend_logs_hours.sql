-- How many rows began in each hour: answered from the index on "startTime" alone.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set start_from '2026-10-16 00:00:00'
-- \set start_to '2026-11-20 00:00:00'
SELECT date_trunc('hour', "startTime") AS hour, count(*) AS rows
FROM :"schema".:"table"
WHERE "startTime" >= :'start_from'
  AND "startTime" < :'start_to'
GROUP BY 1;
