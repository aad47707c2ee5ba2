-- Writes down a batch before it is sent, one entry per request and event code, and gives the entries that may be sent.
-- A request that another charge ID has stays with it, unless Lago is not known to have taken it and it was sent before
-- :settled_before, or the operator decided otherwise (:ours).
INSERT INTO reconcile.deliveries AS known (
  organization, event_code, charge_by, run_id, sent_at, taken,
  request_id, start_ms, charge_id, subscription_id, transaction_id, usage_ms, spend
)
SELECT
  :organization, :event_code, :charge_by, :run_id, :sent_at, false,
  batch.request_id, batch.start_ms, batch.charge_id, batch.subscription_id, batch.transaction_id, batch.usage_ms,
  batch.spend
FROM unnest(
  CAST(:request_id AS text[]), CAST(:start_ms AS bigint[]), CAST(:charge_id AS text[]),
  CAST(:subscription_id AS text[]), CAST(:transaction_id AS text[]), CAST(:usage_ms AS bigint[]),
  CAST(:spend AS double precision[])
) AS batch (request_id, start_ms, charge_id, subscription_id, transaction_id, usage_ms, spend)
ON CONFLICT (organization, event_code, request_id, start_ms) DO UPDATE SET
  charge_by = excluded.charge_by,
  charge_id = excluded.charge_id,
  subscription_id = excluded.subscription_id,
  transaction_id = excluded.transaction_id,
  run_id = excluded.run_id,
  sent_at = excluded.sent_at,
  taken = known.taken AND known.transaction_id = excluded.transaction_id
WHERE known.transaction_id = excluded.transaction_id
  OR CAST(:ours AS boolean)
  OR (NOT known.taken AND known.sent_at < :settled_before)
RETURNING request_id, start_ms;
