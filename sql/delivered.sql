-- What was handed to Lago for rows with a usage time in a range, for any charge ID. `taken` says that Lago answered that
-- it has the event: at the delivery itself, or by the journal's line on the whole batch. `left_by` is when it had left at
-- the latest: rows are written down long before their batch leaves, and the run that did it has ended since, or was
-- killed.
SELECT
  delivery.request_id, delivery.charge_id, delivery.transaction_id, delivery.start_ms,
  delivery.taken OR EXISTS (
    SELECT FROM reconcile.journal AS line
    WHERE line.run_id = delivery.run_id
      AND line.batch = delivery.batch
      AND line.transaction_id = ''
      AND line.what = 'accepted'
  ) AS taken,
  GREATEST(
    delivery.sent_at,
    run.finished_at,
    CASE WHEN run.finished_at IS NULL THEN (
      SELECT line.at
      FROM reconcile.journal AS line
      WHERE line.run_id = delivery.run_id AND line.batch = 0 AND line.what = 'killed'
    ) END
  ) AS left_by
FROM reconcile.deliveries AS delivery
LEFT JOIN reconcile.runs AS run ON run.run_id = delivery.run_id
WHERE delivery.organization = :organization
  AND delivery.event_code = :event_code
  AND delivery.usage_ms >= :usage_from
  AND delivery.usage_ms < :usage_to;
