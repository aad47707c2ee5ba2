"""Foreign eyes on the stand-in: Lago's own Python client, and Lago's OpenAPI schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lago_python_client.client import Client
from lago_python_client.exceptions import LagoApiError, LagoRateLimitError
from lago_python_client.models import BatchEvent, Event
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from reconcile.sandbox.lago.faults import Faults

from .conftest import EVENT, Api, Lagos
from .test_lago_events_api import EXISTS, invalid

SCHEMAS = Path(__file__).parent.parent / "data" / "lago-openapi-1.51.0-events.yaml"


@pytest.fixture
def client(api: Api, running: Lagos, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Lago's own client, with the key of a fresh organization."""
    monkeypatch.setenv("NO_PROXY", "*")
    return Client(api_key=api.key, api_url=running.url)


def test_client_creates_and_finds(client: Client, api: Api) -> None:
    created = client.events.create(Event(**{**EVENT, "timestamp": "1795000000.344"}))
    assert created is not None
    assert created.timestamp == "2026-11-18T11:06:40.344Z"
    assert client.events.find("t-1") == created
    assert api.count() == 1


def test_client_creates_a_batch(client: Client, api: Api) -> None:
    client.events.batch_create(BatchEvent(events=[Event(**{**EVENT, "transaction_id": name}) for name in "abc"]))
    assert [event["transaction_id"] for event in api.organization.stored_events()] == ["a", "b", "c"]


def test_client_reads_metrics_and_usage(client: Client, api: Api) -> None:
    api.organization.add_subscription("sub-1")
    api.organization.add_billable_metric("llm_usage")
    api.create()
    assert client.billable_metrics.find("llm_usage").field_name == "response_cost"
    usage = client.customers.current_usage("sub-1", "sub-1")
    assert [charge.units for charge in usage.charges_usage] == ["0.5"]


def refusal(call: Any, *arguments: Any) -> LagoApiError:
    with pytest.raises(LagoApiError) as caught:
        call(*arguments)
    return caught.value


def test_client_sees_lagos_errors(client: Client, api: Api) -> None:
    client.events.create(Event(**EVENT))
    duplicate = refusal(client.events.create, Event(**EVENT))
    assert (duplicate.status_code, duplicate.response) == (422, invalid(EXISTS))
    batch = refusal(client.events.batch_create, BatchEvent(events=[Event(**EVENT)]))
    assert (batch.status_code, batch.response) == (422, invalid({"0": EXISTS}))
    missing = refusal(client.events.find, "t-2")
    assert (missing.status_code, missing.response["code"]) == (404, "event_not_found")
    api.organization.revoke_key(api.key)
    assert refusal(client.events.find, "t-1").response == {"status": 401, "error": "Unauthorized"}


def test_client_waits_for_the_rate_limit(client: Client, api: Api, faults: Faults) -> None:
    faults.rate_limit(reset=0, times=1)
    client.events.create(Event(**EVENT))
    assert (api.count(), len(api.stand_in.requests)) == (1, 2)
    faults.rate_limit(reset=0, times=9)
    assert isinstance(refusal(client.events.find, "t-1"), LagoRateLimitError)


def validator(name: str) -> OAS31Validator:
    document = yaml.safe_load(SCHEMAS.read_text())
    registry: Registry[Any] = Registry().with_resource("urn:lago", Resource(document, DRAFT202012))
    schema = {"$ref": f"urn:lago#/components/schemas/{name}"}
    return OAS31Validator(schema, registry=registry, format_checker=oas31_format_checker)


@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
def test_answers_follow_lagos_schemas(lagos: Lagos, store: Any) -> None:
    api = lagos.organization(store)
    api.organization.add_subscription("sub-1")
    answers = {
        "EventCreated": api.create(),
        "EventsCreated": api.create_batch({"transaction_id": "a", "precise_total_amount_cents": None}),
        "EventsPaginated": api.get("/events"),
        "Event": api.get("/events/t-1"),
    }
    for name, response in answers.items():
        assert response.status_code == 200
        validator(name).validate(response.json())


def test_the_schemas_would_say_no() -> None:
    assert not validator("EventsPaginated").is_valid({"events": [{**EVENT, "lago_customer_id": 1}], "meta": {}})
