"""LiteLLM's own `lago` callback against Lago over HTTP, its own rows beside, and then the job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from real_litellm.live import RequestSpec
from real_litellm.versions import LiteLLM, litellm

from reconcile.domain.window import Window

from .conftest import Ground
from .outcome import counts
from .world import CODE

__all__ = ["litellm"]  # a fixture

# The class of each request's row, by who is charged, where nothing gets lost. `live`: matched_live. `sent`: the row
# has a charge ID, and the callback posted no event. `none`: the row has no charge ID.
KINDS: dict[str, tuple[RequestSpec, dict[str, str]]] = {}


def kind(name: str, spec: RequestSpec, team: str, user: str, end_user: str) -> None:
    """Takes down a request and its class when charged by team_id, by user_id, by end_user_id."""
    KINDS[name] = spec, {"team_id": team, "user_id": user, "end_user_id": end_user}


BODY = "customer-body"
kind("async", RequestSpec(end_user=BODY), "live", "live", "live")
kind("sync", RequestSpec(sync=True, end_user=BODY, prompt_tokens=21), "live", "live", "live")
kind("stream", RequestSpec(stream=True, end_user=BODY, prompt_tokens=22), "live", "live", "live")
kind("sync stream", RequestSpec(sync=True, stream=True, prompt_tokens=23, end_user=BODY), "live", "live", "live")
kind("embedding", RequestSpec(model="embed", kind="embedding", end_user=BODY), "live", "live", "live")
kind("responses", RequestSpec(model="gpt-4o", kind="responses", end_user=BODY), "live", "live", "live")
kind("image", RequestSpec(model="image", kind="image", end_user=BODY), "live", "live", "live")
kind("unpriced", RequestSpec(model="qwen", end_user=BODY), "live", "live", "live")
kind("cache miss", RequestSpec(cached=True, reply="same", prompt_tokens=24, end_user=BODY), "live", "live", "live")
kind("cache hit", RequestSpec(cached=True, reply="same", prompt_tokens=24, end_user=BODY), "live", "live", "live")
# The callback reads the body alone; LiteLLM's row takes the header, too.
kind("end user by header", RequestSpec(header_end_user="customer-header", prompt_tokens=25), "live", "live", "sent")
# The callback sends '' as a subscription; the row has nobody to charge.
kind("no end user", RequestSpec(prompt_tokens=30), "live", "live", "none")
kind("empty end user", RequestSpec(end_user="", prompt_tokens=26), "live", "live", "none")
kind("no team", RequestSpec(team_id=None, prompt_tokens=27, end_user=BODY), "none", "live", "live")
kind("no user", RequestSpec(user_id=None, prompt_tokens=28, end_user=BODY), "live", "none", "live")
# No event is posted for a failure.
kind("failure", RequestSpec(fails=True, end_user=BODY), "excluded", "excluded", "excluded")
# The guardrail's cost is in the row alone.
kind("guardrail", RequestSpec(guardrail_cost=0.25, prompt_tokens=29, end_user=BODY), "cost", "cost", "cost")

CLASS = {"live": "matched_live", "sent": "delivered", "none": "unattributed", "cost": "mismatched"}
SUBSCRIPTIONS = ("team-research", "user-ada", BODY, "customer-header")


@pytest.mark.parametrize("charge_by", ["team_id", "user_id", "end_user_id"])
def test_every_kind_of_request(charge_by: str, litellm: LiteLLM, ground: Ground) -> None:
    ground.subscribe(*SUBSCRIPTIONS)
    # Lago answers 500 to the second and the fifth post: LiteLLM does not try again, and both are lost.
    ground.lago.faults.answer(500, after=1, method="POST", path="/api/v1/events")
    ground.lago.faults.answer(500, after=2, method="POST", path="/api/v1/events")
    began = datetime.now(UTC)
    rows = litellm.drive(ground.lago.url, ground.lago.key, CODE, charge_by, [spec for spec, _ in KINDS.values()])
    ground.add_rows(rows)
    names = {row["request_id"]: name for name, row in zip(KINDS, rows, strict=True)}
    expected = {name: by[charge_by] for name, (_, by) in KINDS.items()} | {"sync": "sent", "embedding": "sent"}

    window = Window(_whole(began) - timedelta(minutes=1), _whole(datetime.now(UTC)) + timedelta(seconds=1))
    document = ground.backfill(window, LAGO_API_CHARGE_BY=charge_by, RECONCILE_LAG="0s", RECONCILE_MATCH_AFTER="5s")

    found = dict.fromkeys(KINDS, "matched_live") | {"failure": "excluded"}
    found |= {names[request_id]: "delivered" for request_id in ground.sent_requests()}
    listed = document.as_json()["discrepancies"]
    found |= {names[entry["request_id"]]: entry["class"] for entry in listed if entry["class"] != "orphan"}
    assert found == {name: CLASS.get(kind, kind) for name, kind in expected.items()}
    assert {entry["reason"] for entry in listed if entry["class"] == "mismatched"} == {"cost"}

    # An event for '' is an orphan: it bills nobody, and no row may take it for its own.
    orphans = [entry["reason"] for entry in listed if entry["class"] == "orphan"]
    assert orphans == ["no_subscription_id"] * (charge_by == "end_user_id")
    posted = [event for event in ground.lago.organization.stored_events() if event["transaction_id"][:4] != "llm_"]
    assert document.events["total"].count == len(posted) == sum(counts(document.events).values())

    again = ground.backfill(window, LAGO_API_CHARGE_BY=charge_by, RECONCILE_LAG="0s", RECONCILE_MATCH_AFTER="5s")
    assert again.rows["delivered"].count == 0
    assert again.rows["matched"].count == document.rows["delivered"].count


def _whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
