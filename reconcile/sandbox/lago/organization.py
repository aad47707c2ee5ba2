"""One organization of the stand-in, and what its members and Lago's clock would do.

Everything here can also be seen over HTTP, and most of it can be done there; a test that needs a billing period of
its own, a past subscription or thousands of stored events has it shorter here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any, Literal

from psycopg.types.json import Jsonb

from reconcile.sandbox.lago import invoices, plans
from reconcile.sandbox.lago.call import Account, Lago, now
from reconcile.sandbox.lago.events_clickhouse import INSERT_RAW_EVENTS, MERGE, raw_parameters
from reconcile.sandbox.lago.events_postgres import INSERT_EVENTS, insert_parameters
from reconcile.sandbox.lago.posted import Event, read_event
from reconcile.sandbox.lago.subscription import COLUMNS, ORDER, SOURCE, Subscription
from reconcile.sandbox.lago.timestamps import microseconds, naive

SEED_LENGTH = 2_000

DUE_TO_BEGIN = "status = 'pending' AND subscription_at <= %(now)s"
DUE_TO_END = "status = 'active' AND ending_at <= %(now)s"


@dataclass(frozen=True, slots=True)
class Organization:
    stand_in: Lago
    id: str
    clickhouse: bool
    deduplicates: bool

    @property
    def _account(self) -> Account:
        return Account(self.id, self.clickhouse, self.deduplicates)

    def add_key(self, key: str, *, reads_events: bool = True, writes_events: bool = True) -> None:
        """A further API key; it may be kept from reading or from writing events."""
        self.stand_in.execute(
            "INSERT INTO lago.api_keys VALUES (%s, %s, %s, %s)", (key, self.id, reads_events, writes_events)
        )
        self.stand_in.reload()

    def revoke_key(self, key: str) -> None:
        self.stand_in.execute("DELETE FROM lago.api_keys WHERE value = %s", (key,))
        self.stand_in.reload()

    def add_customer(self, external_id: str, *, name: str | None = None, currency: str = "USD") -> None:
        """A customer. One that is there already is left as it is."""
        self.stand_in.execute(
            """INSERT INTO lago.customers (organization_id, external_id, name, currency, created_at, updated_at)
                VALUES (%(id)s, %(external_id)s, %(name)s, %(currency)s, %(now)s, %(now)s) ON CONFLICT DO NOTHING""",
            {
                "id": self.id,
                "external_id": external_id,
                "name": name,
                "currency": currency,
                "now": now(self.stand_in),
            },
        )

    def add_plan(self, code: str, *, interval: str = "monthly") -> None:
        """A plan with a standard charge on each metric that has a `unit_amount`. One that is there stays."""
        given = {"code": code, "name": code, "interval": interval, "amount_currency": "USD"}
        plans.insert(self.stand_in, self.id, given, [], by_hand=True)

    def add_subscription(
        self,
        external_id: str,
        *,
        external_customer_id: str | None = None,
        started_at: datetime | None = None,
        terminated_at: datetime | None = None,
        ending_at: datetime | None = None,
        status: str | None = None,
        plan_code: str = "llm",
        period: tuple[datetime, datetime] | None = None,
    ) -> str:
        """A subscription, and its customer and its plan if there are none; its Lago ID.

        `external_customer_id` is by default the same as `external_id`. `started_at` is by default the
        beginning of the current month, and none for a pending one. `status` follows from `terminated_at`.
        `period` is the open billing period, both ends included; by default the calendar month (UTC) that
        the stand-in's clock is in.
        """
        customer = external_customer_id or external_id
        self.add_customer(customer)
        self.add_plan(plan_code)
        clock = self.stand_in.clock()
        if started_at is None and status not in ("pending", "incomplete"):
            started_at = clock.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        ((lago_id,),) = self.stand_in.execute(
            """INSERT INTO lago.subscriptions (organization_id, customer_id, plan_id, external_id, status,
                    subscription_at, started_at, ending_at, terminated_at, period_from, period_to, created_at)
                SELECT customer.organization_id, customer.id, plan.id, %(external_id)s, %(status)s,
                    %(subscription_at)s, %(started_at)s, %(ending_at)s, %(terminated_at)s, %(from)s, %(to)s, %(now)s
                FROM lago.customers AS customer
                JOIN lago.plans AS plan ON plan.organization_id = customer.organization_id
                    AND plan.parent_id IS NULL AND plan.code = %(plan)s
                WHERE customer.organization_id = %(id)s AND customer.external_id = %(customer)s RETURNING id::text""",
            {
                "id": self.id,
                "external_id": external_id,
                "customer": customer,
                "plan": plan_code,
                "status": status or ("active" if terminated_at is None else "terminated"),
                "subscription_at": naive(started_at or clock),
                "started_at": _naive(started_at),
                "ending_at": _naive(ending_at),
                "terminated_at": _naive(terminated_at),
                "from": _naive(period[0] if period else None),
                "to": _naive(period[1] if period else None),
                "now": naive(clock),
            },
        )
        return str(lago_id)

    def terminate_subscription(self, external_id: str, at: datetime) -> None:
        """Ends the active subscription of this external ID, and bills nothing."""
        self.stand_in.execute(
            """UPDATE lago.subscriptions SET status = 'terminated', terminated_at = %s
                WHERE organization_id = %s AND external_id = %s AND status = 'active'""",
            (naive(at), self.id, external_id),
        )

    def run_clock(self) -> None:
        """What Lago's clock does every hour: pending subscriptions begin and those past their end are ended."""
        moment = now(self.stand_in)
        parameters = {"organization": self.id, "now": moment}
        self.stand_in.execute(
            f"""UPDATE lago.subscriptions SET status = 'active', started_at = subscription_at
                WHERE organization_id = %(organization)s AND {DUE_TO_BEGIN}""",  # noqa: S608 - a constant
            parameters,
        )
        for row in self.stand_in.execute(f"SELECT {COLUMNS} {SOURCE} AND {DUE_TO_END}", parameters):
            ended = Subscription(*row)
            invoices.terminate(self.stand_in, self._account, ended, ended.ending_at or moment)

    def add_billable_metric(
        self,
        code: str,
        *,
        aggregation_type: str = "sum_agg",
        field_name: str | None = "response_cost",
        expression: str | None = None,
        recurring: bool = False,
        filters: Iterable[Mapping[str, Any]] = (),
        unit_amount: Decimal | None = Decimal(1),
    ) -> None:
        """A billable metric, and on every plan made by hand a standard charge of `unit_amount` per unit.

        None: no charge. `filters` are objects with `key` and `values`.
        """
        self.stand_in.execute(
            """INSERT INTO lago.billable_metrics (organization_id, name, code, aggregation_type, field_name,
                    expression, recurring, filters, unit_amount, created_at)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
            (
                self.id,
                code,
                code,
                aggregation_type,
                field_name,
                expression,
                recurring,
                Jsonb([dict(entry) for entry in filters]),
                unit_amount,
                now(self.stand_in),
            ),
        )
        self.stand_in.reload()

    def add_invoice(
        self,
        external_subscription_id: str,
        period: tuple[datetime, datetime],
        *,
        status: Literal["draft", "finalized"] = "draft",
        number: str = "ACM-0001-001",
        issuing_date: date | None = None,
    ) -> str:
        """An invoice over one billing period (both ends included) of one subscription; its Lago ID.

        It bills what is stored now; a draft is computed again when it is refreshed or finalized.
        """
        rows = self.stand_in.execute(
            f"SELECT {COLUMNS} {SOURCE} AND subscription.external_id = %(external_id)s ORDER BY {ORDER} LIMIT 1",
            {"organization": self.id, "external_id": external_subscription_id},
        )
        if not rows:
            raise ValueError(f"no subscription {external_subscription_id!r}")
        lago_id = invoices.insert(
            self.stand_in,
            self._account,
            Subscription(*rows[0]),
            (naive(period[0]), naive(period[1])),
            reason="subscription_periodic",
            number=number,
            issued=issuing_date or period[1].date(),
        )
        if status == "finalized":
            self.finalize_invoice(lago_id)
        else:
            invoices.fill(self.stand_in, self._account, lago_id)
        return lago_id

    def finalize_invoice(self, lago_id: str) -> None:
        """Closes a draft: its charges are what the events stored by now make."""
        invoices.close(self.stand_in, self._account, lago_id)

    def seed_events(self, events: Iterable[tuple[datetime, Mapping[str, Any]]]) -> None:
        """Stores events as if each had been posted at its own time, such as LiteLLM's live events.

        Each item is the moment at which Lago got it (aware) and the posted object. Raises ValueError where
        Lago would have refused one.
        """
        metrics = self.stand_in.metrics(self.id)
        exact = self.stand_in.version.exact_times
        remaining = iter(events)
        while chunk := list(islice(remaining, SEED_LENGTH)):
            received = [microseconds(moment) for moment, _ in chunk]
            parsed: list[Event] = []
            for (_, posted), moment in zip(chunk, received, strict=True):
                event = read_event(posted, moment, metrics, exact_times=exact, takes_nul=self.clickhouse)
                if not isinstance(event, Event) or (event.errors and not self.clickhouse):
                    raise ValueError(f"Lago refuses {posted}")
                parsed.append(event)
            if self.clickhouse:
                self.stand_in.execute(INSERT_RAW_EVENTS, raw_parameters(self.id, parsed, received, metrics))
                continue
            stored = self.stand_in.execute(INSERT_EVENTS, insert_parameters(self.id, parsed, received))
            if len(stored) != len(parsed):
                raise ValueError(f"{len(parsed) - len(stored)} of these events are in Lago already")

    def soft_delete_events(self, code: str) -> None:
        """What Lago does to the events of a deleted metric: they are hidden, and their IDs stay taken."""
        self.stand_in.execute(
            "UPDATE lago.events SET deleted_at = %s WHERE organization_id = %s AND code = %s",
            (now(self.stand_in), self.id, code),
        )

    def merge_events(self) -> None:
        """ClickHouse merges its parts: of the copies of an event the last one is billed. All are still listed."""
        self.stand_in.execute(MERGE, {"organization": self.id})

    def stored_events(self, code: str | None = None) -> list[dict[str, Any]]:
        """The outside count: every stored event, oldest first, without paging, visible or not.

        Keys: transaction_id, code, external_subscription_id, timestamp (datetime without a zone, UTC),
        properties.
        """
        table = "events_raw" if self.clickhouse else "events"
        rows = self.stand_in.execute(
            f"""SELECT transaction_id, code, external_subscription_id, "timestamp", properties
                FROM lago.{table} WHERE organization_id = %(id)s AND code = coalesce(%(code)s, code)
                ORDER BY "timestamp", transaction_id""",  # noqa: S608 - one of two names above
            {"id": self.id, "code": code},
        )
        names = ("transaction_id", "code", "external_subscription_id", "timestamp", "properties")
        return [dict(zip(names, row, strict=True)) for row in rows]


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else naive(moment)
