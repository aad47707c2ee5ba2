-- What was handed to Lago for rows with a usage time in a range, for any charge ID. `taken` says that Lago answered that
-- it has the event: at the delivery itself, or by the journal's line on the whole batch. `left_by` is when it had left at
-- the latest: rows are written down long before their batch leaves; the run that did it has ended since, or was killed.
WITH handed AS MATERIALIZED (
  SELECT request_id, charge_id, transaction_id, start_ms, taken, sent_at, run_id, batch
  FROM reconcile.deliveries
  WHERE organization = :organization
    AND event_code = :event_code
    AND usage_ms >= :usage_from
    AND usage_ms < :usage_to
), accepted AS (
  SELECT sent.run_id, sent.batch
  FROM (SELECT DISTINCT run_id, batch FROM handed WHERE NOT taken) AS sent
  WHERE EXISTS (
    SELECT FROM reconcile.journal AS line
    WHERE line.run_id = sent.run_id
      AND line.batch = sent.batch
      AND line.transaction_id = ''
      AND line.what = 'accepted'
  )
), ended AS (
  SELECT
    run_id,
    coalesce(run.finished_at, (
      SELECT min(line.at)
      FROM reconcile.journal AS line
      WHERE line.run_id = run.run_id AND line.batch = 0 AND line.what = 'killed'
    )) AS at
  FROM reconcile.runs AS run
  WHERE run_id IN (SELECT run_id FROM handed)
)
SELECT
  request_id, charge_id, transaction_id, start_ms,
  taken OR (run_id, batch) IN (SELECT run_id, batch FROM accepted) AS taken,
  GREATEST(sent_at, ended.at) AS left_by
FROM handed
LEFT JOIN ended USING (run_id);
