-- Notes deliveries of a run under the batch that they leave in; :were are those that they are noted under.
UPDATE reconcile.deliveries
SET batch = :batch
WHERE run_id = :run_id
  AND batch = ANY(CAST(:were AS integer[]))
  AND transaction_id = ANY(CAST(:ids AS text[]));
