-- Notes in the journal that Lago was read back and shows deliveries of a run: one line per batch.
INSERT INTO reconcile.journal (at, run_id, batch, transaction_id, what, events)
SELECT CAST(:at AS timestamptz), :run_id, delivery.batch, '', 'read_back', count(*)
FROM reconcile.deliveries AS delivery
JOIN json_array_elements_text(CAST(:shown AS json)) AS shown (transaction_id) USING (transaction_id)
WHERE delivery.run_id = :run_id AND delivery.batch BETWEEN :first_batch AND :last_batch
GROUP BY delivery.batch;
