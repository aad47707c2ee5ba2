-- Writes down deliveries before they are sent, one per request and event code, and gives the places (from 1) of those
-- that may not be sent. A request that another charge ID has stays with it, unless Lago is not known to have taken it and
-- it had left before :settled_before, or the operator decided otherwise (:ours).
WITH wanted AS (
  -- Text comes as JSON: a driver takes long to quote it in arrays.
  SELECT *
  FROM ROWS FROM (
    json_array_elements_text(CAST(:request_id AS json)), unnest(CAST(:start_ms AS bigint[])),
    json_array_elements_text(CAST(:charge_id AS json)), json_array_elements_text(CAST(:subscription_id AS json)),
    json_array_elements_text(CAST(:transaction_id AS json)), unnest(CAST(:usage_ms AS bigint[])),
    unnest(CAST(:spend AS double precision[])), unnest(CAST(:batch AS integer[]))
  ) WITH ORDINALITY AS row (
    request_id, start_ms, charge_id, subscription_id, transaction_id, usage_ms, spend, batch, place
  )
), granted AS (
  INSERT INTO reconcile.deliveries AS known (
    organization, event_code, charge_by, run_id, sent_at, taken,
    request_id, start_ms, charge_id, subscription_id, transaction_id, usage_ms, spend, batch
  )
  SELECT
    :organization, :event_code, :charge_by, :run_id, CAST(:sent_at AS timestamptz), false,
    request_id, start_ms, charge_id, subscription_id, transaction_id, usage_ms, spend, batch
  FROM wanted
  ON CONFLICT (organization, event_code, request_id, start_ms) DO UPDATE SET
    charge_by = excluded.charge_by,
    charge_id = excluded.charge_id,
    subscription_id = excluded.subscription_id,
    transaction_id = excluded.transaction_id,
    run_id = excluded.run_id,
    sent_at = excluded.sent_at,
    batch = excluded.batch,
    -- A row that goes out once more under its own ID keeps what is known of it.
    taken = known.transaction_id = excluded.transaction_id AND (
      known.taken OR EXISTS (
        SELECT FROM reconcile.journal AS line
        WHERE line.run_id = known.run_id
          AND line.batch = known.batch
          AND line.transaction_id = ''
          AND line.what = 'accepted'
      )
    )
  WHERE known.transaction_id = excluded.transaction_id
    OR CAST(:ours AS boolean)
    OR (
      GREATEST(
        known.sent_at,
        (SELECT run.finished_at FROM reconcile.runs AS run WHERE run.run_id = known.run_id),
        (
          SELECT min(line.at)
          FROM reconcile.journal AS line
          WHERE line.run_id = known.run_id AND line.batch = 0 AND line.what = 'killed'
        )
      ) < CAST(:settled_before AS timestamptz)
      AND NOT known.taken
      AND NOT EXISTS (
        SELECT FROM reconcile.journal AS line
        WHERE line.run_id = known.run_id
          AND line.batch = known.batch
          AND line.transaction_id = ''
          AND line.what = 'accepted'
      )
    )
  RETURNING request_id, start_ms
)
SELECT wanted.place
FROM wanted
LEFT JOIN granted USING (request_id, start_ms)
WHERE granted.request_id IS NULL;
