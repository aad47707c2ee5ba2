"""The knobs: what a client must survive (cases J), each by plain HTTP."""

from __future__ import annotations

import contextlib
import threading
import time

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
