"""The stand-in's tables (schema `lago`) and how their rows look in Lago's JSON, by Lago 1.51.0's serializers.

Times are kept without a zone, in UTC, as Rails keeps them. Texts are made by Postgres, because a timestamp
sent in milliseconds lies in the year 55840, which Python's datetime does not reach.
"""

from __future__ import annotations

TABLES = """
CREATE SCHEMA IF NOT EXISTS lago;

CREATE TABLE IF NOT EXISTS lago.organizations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    events_store text NOT NULL CHECK (events_store IN ('postgres', 'clickhouse')),
    deduplicates boolean NOT NULL,
    restricts_keys boolean NOT NULL,
    created_at timestamp NOT NULL
);

CREATE TABLE IF NOT EXISTS lago.api_keys (
    value text PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    reads_events boolean NOT NULL,
    writes_events boolean NOT NULL
);

CREATE TABLE IF NOT EXISTS lago.customers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    external_id text NOT NULL,
    name text,
    currency text NOT NULL,
    created_at timestamp NOT NULL,
    UNIQUE (organization_id, external_id)
);

CREATE TABLE IF NOT EXISTS lago.subscriptions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    customer_id uuid NOT NULL REFERENCES lago.customers,
    external_id text NOT NULL,
    plan_code text NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'active', 'terminated', 'canceled', 'incomplete')),
    subscription_at timestamp NOT NULL,
    started_at timestamp,
    ending_at timestamp,
    terminated_at timestamp,
    canceled_at timestamp,
    period_from timestamp,
    period_to timestamp,
    created_at timestamp NOT NULL
);
CREATE INDEX IF NOT EXISTS subscriptions_by_external_id ON lago.subscriptions (organization_id, external_id);

CREATE TABLE IF NOT EXISTS lago.billable_metrics (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    name text NOT NULL,
    code text NOT NULL,
    description text,
    aggregation_type text NOT NULL,
    field_name text,
    expression text,
    recurring boolean NOT NULL,
    filters jsonb NOT NULL,
    unit_amount numeric,
    created_at timestamp NOT NULL,
    UNIQUE (organization_id, code)
);

CREATE TABLE IF NOT EXISTS lago.invoices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    subscription_id uuid NOT NULL REFERENCES lago.subscriptions,
    number text NOT NULL,
    status text NOT NULL CHECK (status IN ('draft', 'finalized', 'voided')),
    issuing_date date NOT NULL,
    period_from timestamp NOT NULL,
    period_to timestamp NOT NULL,
    usage jsonb,
    created_at timestamp NOT NULL
);

CREATE TABLE IF NOT EXISTS lago.events (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL,
    transaction_id text NOT NULL,
    code text NOT NULL,
    external_subscription_id text,
    "timestamp" timestamp NOT NULL,
    precise_total_amount_cents numeric(40, 15),
    properties jsonb NOT NULL,
    created_at timestamp NOT NULL,
    deleted_at timestamp
);
CREATE UNIQUE INDEX IF NOT EXISTS index_unique_transaction_id
    ON lago.events (organization_id, external_subscription_id, transaction_id);
CREATE INDEX IF NOT EXISTS events_by_time
    ON lago.events (organization_id, code, "timestamp" DESC, transaction_id);

CREATE TABLE IF NOT EXISTS lago.events_raw (
    organization_id uuid NOT NULL,
    transaction_id text,
    code text,
    external_subscription_id text,
    "timestamp" timestamp(3) NOT NULL,
    precise_total_amount_cents numeric(40, 15),
    properties jsonb NOT NULL,
    ingested_at timestamp NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sequence bigint GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX IF NOT EXISTS events_raw_by_time ON lago.events_raw (organization_id, code, "timestamp");
"""


def seconds(column: str) -> str:
    """SQL: a time as Ruby's `iso8601` writes it."""
    return f"""to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""


def milliseconds(column: str) -> str:
    """SQL: a time as Ruby's `iso8601(3)` writes it: cut to milliseconds, not rounded."""
    return f"""to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""


def decimal(column: str) -> str:
    """SQL: a number as Ruby's BigDecimal#to_s writes it: `100.0`, `123.45`."""
    return f"""CASE WHEN scale(trim_scale({column})) = 0 THEN trim_scale({column}) || '.0'
        ELSE trim_scale({column})::text END"""


# One event of a Postgres store. Lago fills neither customer nor subscription there.
EVENT_JSON = f"""json_build_object(
    'lago_id', id,
    'transaction_id', transaction_id,
    'lago_customer_id', NULL,
    'code', code,
    'timestamp', {milliseconds('"timestamp"')},
    'precise_total_amount_cents', {decimal("precise_total_amount_cents")},
    'properties', properties,
    'lago_subscription_id', NULL,
    'external_subscription_id', external_subscription_id,
    'created_at', {seconds("created_at")}
)::text"""

# One event just accepted for a ClickHouse store: it is on its way, and has neither ID nor time of creation.
ACCEPTED_JSON = f"""json_build_object(
    'lago_id', NULL,
    'transaction_id', transaction_id,
    'lago_customer_id', NULL,
    'code', code,
    'timestamp', {milliseconds('"timestamp"')},
    'precise_total_amount_cents', {decimal("precise_total_amount_cents")},
    'properties', properties,
    'lago_subscription_id', NULL,
    'external_subscription_id', external_subscription_id,
    'created_at', NULL
)::text"""

# One event of a ClickHouse store (`events_raw` as `event`), whose strings are never null there. The
# subscription is the one that covers the event's time.
RAW_EVENT_JSON = f"""json_build_object(
    'lago_id', concat_ws('-', event.organization_id, coalesce(event.external_subscription_id, ''),
        coalesce(event.transaction_id, ''), floor(extract(epoch FROM event.ingested_at))::bigint),
    'transaction_id', coalesce(event.transaction_id, ''),
    'lago_customer_id', subscription.customer_id,
    'code', coalesce(event.code, ''),
    'timestamp', {milliseconds('event."timestamp"')},
    'precise_total_amount_cents', {decimal("event.precise_total_amount_cents")},
    'properties', event.properties,
    'lago_subscription_id', subscription.id,
    'external_subscription_id', coalesce(event.external_subscription_id, ''),
    'created_at', {seconds("event.ingested_at")}
)::text"""

COVERING_SUBSCRIPTION = """LEFT JOIN LATERAL (
    SELECT id, customer_id FROM lago.subscriptions
    WHERE organization_id = event.organization_id AND external_id = event.external_subscription_id
        AND date_trunc('millisecond', started_at) <= event."timestamp"
        AND (terminated_at IS NULL OR date_trunc('millisecond', terminated_at) >= event."timestamp")
    ORDER BY terminated_at DESC NULLS FIRST, started_at DESC LIMIT 1
) AS subscription ON true"""

# One order for everybody: two batches with the same events wait for one another, and never deadlock.
INSERT_EVENTS = f"""
INSERT INTO lago.events (organization_id, transaction_id, code, external_subscription_id, "timestamp",
    precise_total_amount_cents, properties, created_at)
SELECT %(organization)s::uuid, t, c, s, timestamp 'epoch' + u * interval '1 microsecond', a, p,
    timestamp 'epoch' + n * interval '1 microsecond'
FROM jsonb_to_recordset(%(events)s::jsonb)
    AS event (i int, t text, c text, s text, u bigint, a numeric, p jsonb, n bigint)
ORDER BY s, t, i
ON CONFLICT (organization_id, external_subscription_id, transaction_id) DO NOTHING
RETURNING transaction_id, {EVENT_JSON}
"""  # noqa: S608 - constants of this module

INSERT_RAW_EVENTS = f"""
INSERT INTO lago.events_raw (organization_id, transaction_id, code, external_subscription_id, "timestamp",
    precise_total_amount_cents, properties, ingested_at)
SELECT %(organization)s::uuid, t, c, s,
    date_trunc('milliseconds', timestamp 'epoch' + u * interval '1 microsecond'), a, p,
    timestamp 'epoch' + n * interval '1 microsecond'
FROM jsonb_to_recordset(%(events)s::jsonb)
    AS event (i int, t text, c text, s text, u bigint, a numeric, p jsonb, n bigint)
ORDER BY i
RETURNING {ACCEPTED_JSON}
"""  # noqa: S608 - constants of this module

SUBSCRIPTION_JSON = f"""json_build_object(
    'lago_id', subscription.id,
    'external_id', subscription.external_id,
    'lago_customer_id', customer.id,
    'external_customer_id', customer.external_id,
    'billing_entity_code', 'default',
    'name', NULL,
    'plan_code', subscription.plan_code,
    'plan_amount_cents', 0,
    'plan_amount_currency', customer.currency,
    'status', subscription.status,
    'billing_time', 'calendar',
    'subscription_at', {seconds("subscription.subscription_at")},
    'started_at', {milliseconds("subscription.started_at")},
    'trial_ended_at', NULL,
    'ending_at', {seconds("subscription.ending_at")},
    'terminated_at', {seconds("subscription.terminated_at")},
    'canceled_at', {seconds("subscription.canceled_at")},
    'created_at', {seconds("subscription.created_at")},
    'previous_plan_code', NULL,
    'next_plan_code', NULL,
    'downgrade_plan_date', NULL,
    'current_billing_period_started_at', {seconds("period.charges_from")},
    'current_billing_period_ending_at', {seconds("period.charges_to")},
    'on_termination_credit_note', NULL,
    'on_termination_invoice', 'generate'
)::text"""

# The billing period under way at %(now)s: the one given, or the calendar month; inside the subscription.
CURRENT_PERIOD = """CROSS JOIN LATERAL (
    SELECT
        greatest(coalesce(subscription.period_from, date_trunc('month', %(now)s::timestamp)),
            subscription.started_at) AS charges_from,
        least(coalesce(subscription.period_to,
            date_trunc('month', %(now)s::timestamp) + interval '1 month' - interval '1 microsecond'),
            subscription.terminated_at) AS charges_to
    WHERE subscription.started_at IS NOT NULL
    UNION ALL
    SELECT NULL, NULL WHERE subscription.started_at IS NULL
) AS period"""

CUSTOMER_JSON = f"""json_build_object(
    'lago_id', customer.id,
    'billing_entity_code', 'default',
    'external_id', customer.external_id,
    'name', customer.name,
    'currency', customer.currency,
    'timezone', NULL,
    'applicable_timezone', 'UTC',
    'created_at', {seconds("customer.created_at")}
)"""

METRIC_JSON = f"""json_build_object(
    'lago_id', id,
    'name', name,
    'code', code,
    'description', description,
    'aggregation_type', aggregation_type,
    'weighted_interval', NULL,
    'recurring', recurring,
    'rounding_function', NULL,
    'rounding_precision', NULL,
    'created_at', {seconds("created_at")},
    'field_name', field_name,
    'expression', expression,
    'filters', filters
)::text"""

ORGANIZATION_JSON = f"""json_build_object(
    'lago_id', id,
    'name', name,
    'default_currency', 'USD',
    'timezone', 'UTC',
    'events_store', events_store,
    'created_at', {seconds("created_at")}
)::text"""

INVOICE_JSON = f"""json_build_object(
    'lago_id', invoice.id,
    'billing_entity_code', 'default',
    'number', invoice.number,
    'issuing_date', invoice.issuing_date,
    'invoice_type', 'subscription',
    'status', invoice.status,
    'payment_status', 'pending',
    'currency', customer.currency,
    'created_at', {seconds("invoice.created_at")},
    'customer', {CUSTOMER_JSON},
    'billing_periods', json_build_array(json_build_object(
        'lago_subscription_id', subscription.id,
        'external_subscription_id', subscription.external_id,
        'subscription_from_datetime', {seconds("invoice.period_from")},
        'subscription_to_datetime', {seconds("invoice.period_to")},
        'charges_from_datetime', {seconds("invoice.period_from")},
        'charges_to_datetime', {seconds("invoice.period_to")},
        'invoicing_reason', 'subscription_periodic'
    ))
)::text"""
