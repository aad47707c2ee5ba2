"""What `reconcile setup` found: for people, as a shell script of curl calls, and as CSV.

Charge IDs can hold anything. In the script they stand in JSON of plain ASCII within single quotes, where the shell
reads nothing but a further single quote, and in comments as JSON strings, which hold no line break. The API key is
never written: the script takes it from the environment.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from reconcile.domain.dates import instant
from reconcile.domain.money import plain
from reconcile.domain.set_up import Need, SetUp, Standing
from reconcile.report.shown import defused, visible

_SHOWN = 10  # charge IDs of each standing on a terminal
_AT_COST = "1"
# What the shell fills in stands in the body as a text that no ID, code or setting can be: it holds a NUL.
_METRIC_ID, _PRICE = "\0metric_id", "\0PRICE"
_TAKE_METRIC_ID = """grep -o '"lago_id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4"""
_HINTS = {
    Standing.BEGINS_LATE: "earlier usage stays held or unbilled: Lago cannot move a start; invoice it by hand",
    Standing.PENDING: "usage until it begins stays held or unbilled",
    Standing.NOT_PRICED: "add a standard charge to their plan on Lago's page, else nobody is billed",
    Standing.SEVERAL: "which subscription is billed cannot be told; end all but one",
    Standing.IMPOSSIBLE: "no subscription can have an ID with a space at an end; change the ID in LiteLLM",
}
_COLUMNS = (
    "make",
    "code",
    "external_id",
    "external_customer_id",
    "plan_code",
    "subscription_at",
    "aggregation_type",
    "field_name",
    "charge_model",
    "amount",
    "requests",
    "spend_usd",
    "first_usage",
    "note",
)


def text(found: SetUp) -> Iterator[str]:
    """Lines for people: what is there, what is missing, and the calls that make it."""
    metric, plan = found.metric, found.plan
    there = "there   " if metric.lago_id is not None else "missing "
    of_field = f" of {metric.field_name}" if metric.field_name else ""
    yield f"{there} metric {visible(metric.code)}: {metric.aggregation}{of_field}"
    if plan.exists:
        yield f"there    plan {visible(plan.code)}: it has a charge on {visible(metric.code)}"
    else:
        charge = f"a standard charge on {visible(metric.code)}{_price_told(found)}"
        yield f"missing  plan {visible(plan.code)}: monthly, {charge}"
    yield f"{len(found.needs):,} charge IDs ({found.charge_by}) have usage since {instant(found.since)}:"
    for standing in Standing:
        needs = found.standing(standing)
        if needs:
            yield from _standing(standing, needs)
    if found.nobody is not None:
        yield (
            f"note     {found.nobody.rows:,} requests without a {found.charge_by}, {_usd(found.nobody.spend)}: nobody "
            "is charged for them; give their keys one in LiteLLM"
        )
    yield from (f"note     {line}" for line in _warnings(found))
    if found.is_complete:
        yield "next     reconcile check"
        return
    yield "The calls that make what is missing (LAGO_API_KEY from your environment):"
    yield from _calls(found)
    yield "next     reconcile setup --curl > setup.sh; read it; sh setup.sh; reconcile check; reconcile run --dry-run"
    if found.older is not None:
        yield f"next     {_backfill(found.older)} --dry-run; then without: a first `run` begins after these days"


def _standing(standing: Standing, needs: list[Need]) -> Iterator[str]:
    label = "missing" if standing is Standing.MISSING else standing.value
    if standing is Standing.THERE:
        yield f"there    {len(needs):,} have a subscription that covers and prices all of it"
        return
    hint = f": {_HINTS[standing]}" if standing in _HINTS else " have no subscription"
    yield f"{label:<8} {len(needs):,}{hint}"
    for need in needs[:_SHOWN]:
        begins = "" if need.begins_at is None else f"; subscription from {instant(need.begins_at)}"
        plan = "" if need.plan_code is None else f", plan {visible(need.plan_code)}"
        yield f"           {_used(need)}{begins}{plan}"
    if len(needs) > _SHOWN:
        yield f"           … and {len(needs) - _SHOWN:,} more: --csv lists them all"


def _used(need: Need) -> str:
    usage = need.usage
    return (
        f"{visible(usage.charge_id)}  {_usd(usage.spend)}, {usage.rows:,} requests from {instant(usage.first)} to "
        f"{instant(usage.last)}"
    )


def _warnings(found: SetUp) -> Iterator[str]:
    rows, spend = found.closed
    if rows:
        yield (
            f"{rows:,} requests, {_usd(spend)}, lie before {instant(found.month)}: months which are over are never "
            "invoiced by Lago, however far back a subscription is dated; reconcile holds them (period_closed), and you "
            "have to invoice them by hand"
        )
    if not found.plan.exists and not found.metric.adds_up_cost:
        yield f"the price of a unit of {visible(found.metric.code)} is yours to choose: PRICE, in USD"


def _calls(found: SetUp) -> Iterator[str]:
    requests = list(_requests(found, _AT_COST if found.metric.adds_up_cost else _PRICE))
    for path, body in requests[: 2 + 2 * _SHOWN]:
        headers = "-H \"Authorization: Bearer $LAGO_API_KEY\" -H 'Content-Type: application/json'"
        call = f"curl -gsS {_url(found, path)} {headers} -d {_quoted(body)}"
        yield f"metric_id=$({call} | {_TAKE_METRIC_ID})" if path == "billable_metrics" else call
    if len(requests) > 2 + 2 * _SHOWN:
        yield f"… and {len(requests) - 2 - 2 * _SHOWN:,} more: --curl writes them all"


def _url(found: SetUp, path: str) -> str:
    return shlex.quote(f"{found.lago}/api/v1/{path}")


def _requests(found: SetUp, price: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every request that is missing, in the order in which they can be made: path and body."""
    if found.metric.lago_id is None:
        yield "billable_metrics", found.metric_body()
    if not found.plan.exists:
        yield "plans", found.plan_body(found.metric.lago_id or _METRIC_ID, price)
    for need in found.missing:
        yield from found.bodies(need)


def _quoted(body: Mapping[str, Any]) -> str:
    """JSON of plain ASCII as one word of the shell. What the shell fills in stands in double quotes."""
    word = "'" + json.dumps(body, ensure_ascii=True).replace("'", "'\\''") + "'"
    for name in (_METRIC_ID, _PRICE):
        word = word.replace(json.dumps(name), f'"\'"${name[1:]}"\'"')
    return word


def script(found: SetUp) -> str:
    """A script for `sh` that makes what is missing with curl. It stops where Lago refuses something."""
    return "\n".join(_script(found)) + "\n"


def _script(found: SetUp) -> Iterator[str]:
    yield "#!/bin/sh"
    yield f"# Makes in Lago what billing {_told(found.metric.code)} by {found.charge_by} needs."
    yield "# Read it, change what is not as you want it, and run it:  LAGO_API_KEY=... sh setup.sh"
    yield f"# Written by `reconcile setup --curl`, {instant(found.until)}, which has changed nothing in Lago."
    yield "# It stops where Lago refuses something. Then write it anew: what is there by then is left out."
    for line in _warnings(found):
        yield f"# Note: {_ascii(line)}"
    yield "set -eu"
    if found.is_complete:
        yield 'echo "nothing is missing" >&2'
        return
    yield ': "${LAGO_API_KEY:?is the key of Lago\'s API}"'
    yield f"lago={shlex.quote(found.lago)}"
    if not found.plan.exists and found.metric.adds_up_cost:
        yield "# What one USD of LiteLLM's spend costs your customer: 1 is at cost, 1.2 is a fifth more."
        yield f': "${{PRICE:={_AT_COST}}}"'
    elif not found.plan.exists:
        yield ': "${PRICE:?is what one unit of the metric costs, in USD}"'
    yield _POST
    places = {need.usage.charge_id: need for need in found.missing}
    told: set[str] = set()
    for path, body in _requests(found, _PRICE):
        charge_id = str(body.get("customer", {}).get("external_id") or body.get("subscription", {}).get("external_id"))
        if charge_id in places and charge_id not in told:
            told.add(charge_id)
            usage = places[charge_id].usage
            yield ""
            yield (
                f"# {_told(charge_id)}: {_usd(usage.spend)}, {usage.rows:,} requests from {instant(usage.first)} to "
                f"{instant(usage.last)}"
            )
        elif charge_id not in places:
            yield ""
        yield f"post {path} {_quoted(body)}"
        if path == "billable_metrics":
            yield f"metric_id=$(printf '%s' \"$answer\" | {_TAKE_METRIC_ID})"
    yield ""
    yield 'echo "done; next: reconcile check" >&2'
    if found.older is not None:
        yield f'echo "older than a first run looks: {_backfill(found.older)}" >&2'


_POST = """
post() { # PATH JSON
    answer=$(printf 'Authorization: Bearer %s\\n' "$LAGO_API_KEY" |
        curl --globoff --silent --show-error --header @- --header 'Content-Type: application/json' \\
            --data-binary "$2" --write-out '\\n%{http_code}' "$lago/api/v1/$1")
    case $answer in
    *'
200') printf '%s\\n' "made: $1 $2" >&2 ;;
    *)
        printf '%s\\n' "refused: $1 $2" "$answer" >&2
        exit 1
        ;;
    esac
}"""


def table(found: SetUp) -> bytes:
    """CSV in UTF-8 with a byte-order mark: one line for each thing to make, for those who use Lago's page."""
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(_COLUMNS)
    for line in _lines(found):
        writer.writerow(defused(visible(line.get(name, ""))) for name in _COLUMNS)
    return b"\xef\xbb\xbf" + target.getvalue().encode()


def _lines(found: SetUp) -> Iterator[dict[str, str]]:
    metric, plan = found.metric, found.plan
    if metric.lago_id is None:
        yield {
            "make": "billable_metric",
            "code": metric.code,
            "aggregation_type": metric.aggregation,
            "field_name": metric.field_name or "",
        }
    if not plan.exists:
        yield {
            "make": "plan",
            "code": plan.code,
            "charge_model": "standard",
            "amount": _AT_COST if metric.adds_up_cost else "",
            "note": f"monthly, USD, a charge on {metric.code}",
        }
    for need in found.needs:
        usage, missing = need.usage, need.standing is Standing.MISSING
        if need.standing is Standing.THERE:
            continue
        figures = {"requests": str(usage.rows), "spend_usd": plain(usage.spend), "first_usage": instant(usage.first)}
        if need.makes_customer:
            yield {"make": "customer", "external_id": usage.charge_id, **figures}
        yield {
            "make": "subscription" if missing else "",
            "external_id": usage.charge_id,
            "external_customer_id": usage.charge_id if missing else "",
            "plan_code": plan.code if missing else need.plan_code or "",
            "subscription_at": "" if need.begins_at is None else instant(need.begins_at),
            "note": _note(found, need),
            **figures,
        }


def _note(found: SetUp, need: Need) -> str:
    if need.standing is not Standing.MISSING:
        return f"{need.standing}: {_HINTS[need.standing]}"
    usage = need.usage
    if not usage.earlier_rows:
        return ""
    earlier = f"{plain(usage.earlier_spend)} USD lie before {instant(found.month)}"
    return f"of it {earlier}: months which are over are never invoiced"


def _price_told(found: SetUp) -> str:
    return f", {_AT_COST} USD a unit (LiteLLM's cost)" if found.metric.adds_up_cost else ""


def _backfill(days: tuple[date, date]) -> str:
    return f"reconcile backfill --from {days[0]} --to {days[1]}"


def _usd(amount: Any) -> str:
    return f"{plain(amount)} USD"


def _told(name: str) -> str:
    """A name in a comment: a JSON string of plain ASCII, on one line."""
    return json.dumps(name, ensure_ascii=True)


def _ascii(line: str) -> str:
    return line.encode("ascii", "backslashreplace").decode()
