"""The knobs: what a client must survive (cases J), each by plain HTTP."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import timedelta

import httpx
import pytest

from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.servers import lago_server

from .conftest import Api
from .test_lago_events_api import EXISTS, answers, fill, invalid, listed


def test_j1_rate_limit(api: Api, faults: Faults) -> None:
    faults.rate_limit(reset=2, times=2, path="/api/v1/events")
    for body in (b"", b""):
        response = api.create()
        assert (response.status_code, response.content) == (429, body)
        assert response.headers["x-ratelimit-limit"] == "50"
        assert response.headers["x-ratelimit-remaining"] == "0"
        assert response.headers["x-ratelimit-reset"] == "2"
    assert api.count() == 0
    faults.rate_limit(body=b'{"error":"Too Many Requests"}')
    assert api.get("/organizations").json() == {"error": "Too Many Requests"}
    assert api.create().status_code == 200


def test_j2_body_too_large_for_the_proxy(api: Api, faults: Faults) -> None:
    faults.max_body_bytes = 1_000
    response = api.create_batch(*({"transaction_id": f"t-{number}"} for number in range(10)))
    assert (response.status_code, response.headers["content-type"]) == (413, "text/html")
    assert "413 Request Entity Too Large" in response.text
    assert api.count() == 0
    assert api.create_batch({}).status_code == 200


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_j3_the_proxys_own_pages(api: Api, faults: Faults, status: int) -> None:
    faults.answer(status)
    response = api.create()
    assert (response.status_code, response.headers["content-type"]) == (status, "text/html")
    assert response.text.startswith(f"<html>\r\n<head><title>{status} ")
    assert api.create().status_code == 200


def test_j4_stored_and_then_dropped(api: Api, faults: Faults) -> None:
    batch = [{"transaction_id": f"t-{number}"} for number in range(3)]
    faults.drop(path="/api/v1/events/batch")
    with pytest.raises(httpx.ReadError):
        api.create_batch(*batch)
    assert api.count() == 3
    answers(api.create_batch(*batch), 422, invalid({str(number): EXISTS for number in range(3)}))


def test_j5_reset_in_the_middle_of_the_answer(api: Api, faults: Faults) -> None:
    faults.reset()
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        api.create()
    assert api.count() == 1
    assert api.get("/events/t-1").status_code == 200


def test_j6_before_1_39_good_events_of_a_refused_batch_stay(api: Api, faults: Faults) -> None:
    faults.before_1_39 = True
    api.create()
    response = api.create_batch({}, {"transaction_id": "t-2"})
    answers(response, 422, invalid({"0": EXISTS}))
    assert [event["transaction_id"] for event in api.organization.stored_events()] == ["t-1", "t-2"]


def test_j8_events_arrive_between_pages(api: Api, faults: Faults) -> None:
    """A newer event shifts the pages: one row is seen twice."""
    fill(api, 100, 200, 300, 400)
    newer = iter(range(500, 600, 10))

    def arrive() -> None:
        api.create(transaction_id="newer", timestamp=next(newer))

    first = listed(api.get("/events", per_page=2, page=1))
    faults.before_list = arrive
    assert (first, listed(api.get("/events", per_page=2, page=2))) == (["t-3", "t-2"], ["t-2", "t-1"])


def test_no_answer_at_all(api: Api, faults: Faults) -> None:
    faults.hang()
    with pytest.raises(httpx.ReadTimeout):
        api.client.post("/events", json={"event": {"transaction_id": "t"}}, timeout=0.1)
    assert api.count() == 0
    assert api.create().status_code == 200


def test_the_server_stops_although_a_request_hangs(api: Api) -> None:
    api.stand_in.faults.hang(path="/health")
    with lago_server(api.stand_in) as url, httpx.Client(trust_env=False, timeout=60) as client:
        asking = threading.Thread(target=_ask, args=(client, f"{url}/health"))
        asking.start()
        deadline = time.monotonic() + 10
        while not api.stand_in.requests and time.monotonic() < deadline:
            time.sleep(0.01)
    asking.join(10)
    assert not asking.is_alive()


def _ask(client: httpx.Client, url: str) -> None:
    with contextlib.suppress(httpx.TransportError):
        client.get(url)


def test_a_page_is_no_longer_than_the_server_grants(api: Api, faults: Faults) -> None:
    fill(api, 100, 200, 300)
    faults.max_per_page = 2
    response = api.get("/events", per_page=1_000)
    assert (listed(response), response.json()["meta"]["total_pages"]) == (["t-2", "t-1"], 2)


def test_d16_ties_were_unstable_before_1_48(api: Api, faults: Faults) -> None:
    api.create_batch(*({"transaction_id": f"t-{number}"} for number in range(50)))
    whole = listed(api.get("/events"))
    faults.unstable_ties = True
    assert listed(api.get("/events")) != whole == sorted(whole)
    pages = [listed(api.get("/events", per_page=10, page=page)) for page in range(1, 6)]
    assert len({name for page in pages for name in page}) < 50  # some are seen twice, and others never


def test_faults_choose_their_requests(api: Api, faults: Faults) -> None:
    faults.answer(401, method="POST", path="/api/v1/events/batch", after=1, times=1)
    assert api.get("/events").status_code == 200
    assert api.create_batch({}).status_code == 200
    answers(api.create_batch({}), 401, {"status": 401, "error": "Unauthorized"})
    assert api.create_batch({}).status_code == 422


def test_requests_are_counted(api: Api, faults: Faults) -> None:
    faults.answer(502)
    api.get("/events", per_page=1)
    api.create()
    assert api.stand_in.requests == [
        ("GET", "/api/v1/events", "per_page=1"),
        ("POST", "/api/v1/events", ""),
    ]


def test_a_range_that_is_too_wide_times_out(api: Api, faults: Faults) -> None:
    faults.widest_list = timedelta(minutes=30)
    params = {"timestamp_from": "2026-11-20T00:00:00Z", "timestamp_to": "2026-11-20T00:30:00Z"}
    assert api.get("/events", **params).status_code == 200
    for wide in ({**params, "timestamp_to": "2026-11-20T00:30:00.001Z"}, {"timestamp_from": "2026-11-20"}, {}):
        refused = api.get("/events", **wide)
        assert (refused.status_code, refused.headers["content-type"]) == (504, "text/html")
    assert api.get("/events/t-1").status_code == 404


def test_latency_by_path(api: Api, faults: Faults) -> None:
    faults.latency = {"/api/v1/": 60.0, "/api/v1/subscriptions": 0.05, "/api/v1/events": 0.0}
    begin = time.monotonic()
    assert api.get("/subscriptions").status_code == 200
    assert 0.05 <= time.monotonic() - begin < 60
    assert api.get("/events").status_code == 200


def test_a_limit_of_requests_per_second(api: Api, faults: Faults) -> None:
    faults.requests_per_second = {"/api/v1/subscriptions": 2}
    begin = time.monotonic()
    refused = None
    while refused is None and time.monotonic() - begin < 30:
        answers_now = [api.get("/subscriptions") for _ in range(3)]
        refused = next((one for one in answers_now if one.status_code == 429), None)
    assert refused is not None
    assert refused.headers["x-ratelimit-limit"] == "2"
    assert api.get("/organizations").status_code == 200
    while api.get("/subscriptions").status_code == 429:
        assert time.monotonic() - begin < 30


def test_usage_that_cannot_be_computed(api: Api, faults: Faults) -> None:
    for name in ("good", "bad"):
        api.organization.add_subscription(name)
    faults.broken_usage = {"bad"}
    statuses = {
        name: api.get(f"/customers/{name}/current_usage", external_subscription_id=name).status_code
        for name in ("good", "bad")
    }
    assert statuses == {"good": 200, "bad": 500}


def test_the_date_and_a_clock_that_is_ahead(api: Api, faults: Faults) -> None:
    assert "date" not in api.create().headers
    faults.date_header = True
    assert api.get("/events").headers.get_list("date") == ["Fri, 20 Nov 2026 12:00:00 GMT"]
    faults.clock_skew = timedelta(minutes=-90)
    created = api.create(transaction_id="t-2", timestamp=None)
    assert created.headers["date"] == "Fri, 20 Nov 2026 10:30:00 GMT"
    event = created.json()["event"]
    assert (event["created_at"], event["timestamp"]) == ("2026-11-20T10:30:00Z", "2026-11-20T10:30:00.344Z")
    faults.answer(502)
    assert "date" in api.get("/events").headers
