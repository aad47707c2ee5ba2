-- Forgets held rows that are settled now.
DELETE FROM reconcile.held
USING unnest(CAST(:request_id AS text[]), CAST(:start_ms AS bigint[])) AS settled (request_id, start_ms)
WHERE held.organization = :organization
  AND held.event_code = :event_code
  AND held.charge_by = :charge_by
  AND held.request_id = settled.request_id
  AND held.start_ms = settled.start_ms;
