-- Notes in the journal that Lago was read back and shows deliveries of a run: one line per batch.
INSERT INTO reconcile.journal (at, run_id, batch, transaction_id, what, events)
SELECT CAST(:at AS timestamptz), :run_id, delivery.batch, '', 'read_back', count(*)
FROM reconcile.deliveries AS delivery
JOIN unnest(CAST(:shown AS text[])) AS shown (transaction_id) USING (transaction_id)
WHERE delivery.run_id = :run_id
GROUP BY delivery.batch;
