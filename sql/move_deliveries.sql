-- Notes deliveries of a run under the batch that they leave in.
UPDATE reconcile.deliveries
SET batch = :batch
WHERE run_id = :run_id
  AND batch <> :batch
  AND transaction_id = ANY(CAST(:ids AS text[]));
