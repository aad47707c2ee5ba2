-- Rows that belong to no window that anybody will ask for: they began before LiteLLM was written or in the future
-- (`infinity` among them), or, begun within the range given, end in the future or before LiteLLM was written.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set start_from '2026-11-20 00:00:00'
-- \set start_to '2026-11-21 00:00:00'
-- \set future '2027-11-21 00:00:00'
SELECT
  count(*) AS rows,
  coalesce(sum(spend) FILTER (WHERE spend > '-infinity' AND spend < 'infinity'), 0) AS spend
FROM :"schema".:"table"
WHERE "startTime" < '2020-01-01'
  OR "startTime" >= :'future'
  OR (
    "startTime" >= :'start_from'
    AND "startTime" < :'start_to'
    AND ("endTime" >= :'future' OR "endTime" < '2020-01-01')
  );
