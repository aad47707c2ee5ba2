"""The stand-in's tables, in schema `lago`. Times are kept without a zone, in UTC, as Rails keeps them."""

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
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    external_id text NOT NULL,
    name text,
    currency text,
    created_at timestamp NOT NULL,
    updated_at timestamp NOT NULL,
    UNIQUE (organization_id, external_id)
);

-- A plan with a parent is one subscription's own (overrides). `charges` is a list of objects as in Lago's JSON.
-- A plan made by hand also carries a standard charge of each metric's `unit_amount`.
CREATE TABLE IF NOT EXISTS lago.plans (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    parent_id uuid REFERENCES lago.plans,
    code text NOT NULL,
    name text NOT NULL,
    "interval" text NOT NULL,
    amount_cents bigint NOT NULL,
    amount_currency text NOT NULL,
    pay_in_advance boolean NOT NULL,
    charges jsonb NOT NULL,
    by_hand boolean NOT NULL,
    created_at timestamp NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS plans_by_code ON lago.plans (organization_id, code) WHERE parent_id IS NULL;

CREATE TABLE IF NOT EXISTS lago.subscriptions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    customer_id uuid NOT NULL REFERENCES lago.customers,
    plan_id uuid NOT NULL REFERENCES lago.plans,
    external_id text NOT NULL,
    name text NOT NULL DEFAULT '',
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
CREATE INDEX IF NOT EXISTS subscriptions_by_customer ON lago.subscriptions (customer_id);

CREATE TABLE IF NOT EXISTS lago.billable_metrics (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    name text NOT NULL,
    code text NOT NULL,
    description text,
    aggregation_type text NOT NULL,
    weighted_interval text,
    field_name text,
    expression text,
    recurring boolean NOT NULL,
    rounding_function text,
    rounding_precision integer,
    filters jsonb NOT NULL,
    unit_amount numeric,
    created_at timestamp NOT NULL,
    UNIQUE (organization_id, code)
);

-- `usage` is what the invoice bills, as entries of `charges_usage`; `fees` the same as Lago's fees.
CREATE TABLE IF NOT EXISTS lago.invoices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    subscription_id uuid NOT NULL REFERENCES lago.subscriptions,
    number text NOT NULL,
    status text NOT NULL CHECK (status IN ('draft', 'finalized', 'voided')),
    invoicing_reason text NOT NULL,
    issuing_date date NOT NULL,
    period_from timestamp NOT NULL,
    period_to timestamp NOT NULL,
    usage jsonb NOT NULL,
    created_at timestamp NOT NULL,
    updated_at timestamp NOT NULL,
    voided_at timestamp
);

CREATE TABLE IF NOT EXISTS lago.fees (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    organization_id uuid NOT NULL REFERENCES lago.organizations,
    invoice_id uuid NOT NULL REFERENCES lago.invoices,
    subscription_id uuid NOT NULL REFERENCES lago.subscriptions,
    fee_type text NOT NULL,
    metric_code text,
    event_transaction_id text,
    content jsonb NOT NULL,
    created_at timestamp NOT NULL
);
CREATE INDEX IF NOT EXISTS fees_by_event ON lago.fees (organization_id, event_transaction_id);
CREATE INDEX IF NOT EXISTS fees_by_invoice ON lago.fees (invoice_id);

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
    deleted_at timestamp,
    large boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX IF NOT EXISTS index_unique_transaction_id
    ON lago.events (organization_id, external_subscription_id, transaction_id);
CREATE INDEX IF NOT EXISTS events_by_time
    ON lago.events (organization_id, code, "timestamp" DESC, transaction_id);
-- Lago's index holds the properties of every event, and so refuses what a page of an index cannot hold. Only large
-- events need to be in it for that.
CREATE INDEX IF NOT EXISTS idx_events_billing_lookup
    ON lago.events (external_subscription_id, organization_id, code, "timestamp") INCLUDE (properties)
    WHERE large;

-- What ClickHouse's `events_raw` (every row) and `events_enriched` (where `enriched`) hold. `value` is the metric's
-- property as the events processor writes it, `decimal_value` what ClickHouse makes of that text.
CREATE TABLE IF NOT EXISTS lago.events_raw (
    organization_id uuid NOT NULL,
    transaction_id text NOT NULL,
    code text NOT NULL,
    external_subscription_id text NOT NULL,
    "timestamp" timestamp(3) NOT NULL,
    precise_total_amount_cents numeric(40, 15) NOT NULL,
    properties jsonb NOT NULL,
    enriched boolean NOT NULL,
    value text,
    decimal_value numeric,
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
