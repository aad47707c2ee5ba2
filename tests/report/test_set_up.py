"""What `reconcile setup` writes holds its words together, whatever a charge ID is made of."""

from __future__ import annotations

import csv
import io
import json
import shlex
from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.domain.set_up import MetricNeeded, Need, PlanNeeded, SetUp, Standing, Usage
from reconcile.report.set_up import script, table, text

DAY = datetime(2026, 11, 20, tzinfo=UTC)
# Postgres and the environment hold no NUL, and no half of a surrogate pair.
NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("'\"\\$`\n\r;&|#=@!{}\u2028"),
    min_size=1,
    max_size=40,
)


def found(name: str, *, code: str = "llm", metric: bool = True, plan: bool = True) -> SetUp:
    usage = Usage(name, 3, Decimal("0.5"), 1, Decimal("0.25"), DAY, DAY)
    return SetUp(
        lago="http://[::1]:3000",
        charge_by="team_id",
        by_customer=False,
        since=DAY,
        until=DAY,
        month=DAY,
        metric=MetricNeeded(code, "id-1" if metric else None, "sum_agg", "response_cost", adds_up_cost=True),
        plan=PlanNeeded(f"{code} at cost", plan),
        needs=(Need(usage, Standing.MISSING, DAY, makes_customer=True),),
        nobody=None,
    )


def calls(written: str) -> list[list[str]]:
    """The words of each call, as a shell reads them: what it would fill in stays as it is written."""
    words = shlex.split(written, comments=True)
    places = [place for place, word in enumerate(words) if word == "post"]
    return [words[place + 1 : place + 3] for place in places]


@settings(deadline=None, max_examples=200)
@given(NAMES)
def test_a_charge_id_is_one_word_and_comes_through(name: str) -> None:
    written = script(found(name))
    assert written.isascii()
    body = written.split("\n}\n", 1)[1]
    (customers, customer), (subscriptions, subscription) = calls(body)
    assert (customers, subscriptions) == ("customers", "subscriptions")
    assert json.loads(customer)["customer"]["external_id"] == name
    assert json.loads(subscription)["subscription"]["external_id"] == name
    # Nothing stands on a line of its own but what belongs there.
    assert {line.split(" ")[0] for line in body.splitlines() if line} == {"#", "post", "echo"}
    printed = [line for line in text(found(name)) if "curl -gsS" in line]
    assert [json.loads(shlex.split(line)[-1]) for line in printed] == [json.loads(customer), json.loads(subscription)]
    assert all("\n" not in line and "\r" not in line for line in text(found(name)))


@settings(deadline=None, max_examples=100)
@given(NAMES)
def test_only_the_metric_s_id_and_the_price_are_filled_in(code: str) -> None:
    written = script(found("$metric_id", code=code, metric=False, plan=False))
    body = written.split("\n}\n", 1)[1]
    filled = body.replace('"$metric_id"\'"', "the-id'\"").replace('"$PRICE"\'"', "1.5'\"")
    by_path = {path: json.loads(told) for path, told in calls(filled)}
    assert by_path["billable_metrics"]["billable_metric"]["code"] == code
    (charge,) = by_path["plans"]["plan"]["charges"]
    assert (charge["billable_metric_id"], charge["properties"]) == ("the-id", {"amount": "1.5"})
    assert (charge["code"], by_path["plans"]["plan"]["name"]) == (code, f"{code} at cost")
    assert by_path["subscriptions"]["subscription"]["external_id"] == "$metric_id"
    assert body.count("$PRICE") == 1 + code.count("$PRICE")


@settings(deadline=None, max_examples=50)
@given(NAMES)
def test_a_table_is_no_formula(name: str) -> None:
    rows = list(csv.DictReader(io.StringIO(table(found(name)).decode("utf-8-sig"), newline="")))
    assert [one["make"] for one in rows] == ["customer", "subscription"]
    for one in rows:
        assert not one["external_id"].startswith(("=", "+", "-", "@"))
    assert rows[1]["note"].startswith("of it 0.25 USD lie before 2026-11-20T00:00:00Z")
