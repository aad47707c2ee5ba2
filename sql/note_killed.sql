-- Notes in the journal, one line for each, the sending runs of a stream that were killed: they have no end, and whoever
-- holds the stream's lock knows that they are not at work any more.
INSERT INTO reconcile.journal (at, run_id, batch, transaction_id, what, events)
SELECT CAST(:at AS timestamptz), run.run_id, 0, '', 'killed', 0
FROM reconcile.runs AS run
WHERE run.organization = :organization
  AND run.event_code = :event_code
  AND run.charge_by = :charge_by
  AND run.finished_at IS NULL
  AND run.command IN ('run', 'backfill')
  AND NOT run.dry_run
  AND NOT EXISTS (
    SELECT FROM reconcile.journal AS line
    WHERE line.run_id = run.run_id AND line.batch = 0 AND line.what = 'killed'
  );
