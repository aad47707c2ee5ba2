-- What was handed to Lago for one request ID, for any charge ID, each with what the journal says about it or its batch.
SELECT
  delivery.start_ms, delivery.usage_ms, delivery.charge_by, delivery.charge_id, delivery.subscription_id,
  delivery.transaction_id, delivery.run_id, delivery.batch, delivery.sent_at, delivery.spend,
  line.at, line.what, line.http_status, line.reason
FROM reconcile.deliveries AS delivery
LEFT JOIN reconcile.journal AS line
  ON line.run_id = delivery.run_id
  AND (
    line.transaction_id = delivery.transaction_id
    OR (line.transaction_id = '' AND line.batch = delivery.batch)
  )
WHERE delivery.organization = :organization
  AND delivery.event_code = :event_code
  AND delivery.request_id = :request_id
ORDER BY delivery.sent_at, delivery.start_ms, line.entry;
