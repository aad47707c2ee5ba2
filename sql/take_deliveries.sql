-- Notes at deliveries of a run that Lago has their events, where the journal's line on the batch cannot say so.
UPDATE reconcile.deliveries
SET taken = true
WHERE run_id = :run_id
  AND batch = ANY(CAST(:batches AS integer[]))
  AND transaction_id = ANY(CAST(:taken AS text[]));
