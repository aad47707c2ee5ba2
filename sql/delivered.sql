-- What was handed to Lago for rows with a usage time in a range, for any charge ID. `taken` says that Lago answered that
-- it has the event: at the delivery itself, or by the journal's line on the whole batch.
SELECT
  delivery.request_id, delivery.charge_id, delivery.transaction_id, delivery.start_ms,
  delivery.taken OR EXISTS (
    SELECT FROM reconcile.journal AS line
    WHERE line.run_id = delivery.run_id
      AND line.batch = delivery.batch
      AND line.transaction_id = ''
      AND line.what = 'accepted'
  ) AS taken,
  delivery.sent_at
FROM reconcile.deliveries AS delivery
WHERE delivery.organization = :organization
  AND delivery.event_code = :event_code
  AND delivery.usage_ms >= :usage_from
  AND delivery.usage_ms < :usage_to;
