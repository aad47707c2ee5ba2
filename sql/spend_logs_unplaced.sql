-- Rows that belong to no window that anybody will ask for: they began before LiteLLM was written or in the future
-- (`infinity` among them), or, begun within the range given, end in the future or before LiteLLM was written. A spend
-- beyond 1e300 counts as that: a sum beyond a double is an error.
-- \set schema public
-- \set table LiteLLM_SpendLogs
-- \set start_from '2026-11-20 00:00:00'
-- \set start_to '2026-11-21 00:00:00'
-- \set future '2027-11-21 00:00:00'
SELECT
  count(*) AS rows,
  coalesce(sum(least(greatest(spend, -1e300), 1e300)) FILTER (WHERE spend > '-infinity' AND spend < 'infinity'), 0) AS spend
FROM :"schema".:"table"
WHERE "startTime" < '2020-01-01'
  OR "startTime" >= :'future'
  OR (
    "startTime" >= :'start_from'
    AND "startTime" < :'start_to'
    AND ("endTime" >= :'future' OR "endTime" < '2020-01-01')
  );
