"""Make reconcile/sandbox/data/sample_traffic.json.gz: four days of LiteLLM's traffic, for the demo and the tests.

    pip install -e '.[test]'
    python tools/make_sample_traffic.py

Takes about two minutes. LiteLLM itself, the newest version that the tests drive, makes every row and every live event:
each planned request goes through its router and providers' clients (to a server on loopback) three times, once per
charge-by of the `lago` callback, whose posts are taken down over HTTP (tests/real_litellm/live.py). Around that, this
script decides from a seed what LiteLLM would stamp at random, so that running it twice gives the same bytes:

- who asks for what (about 2,000 requests of three teams, at office hours mostly), and when: start, end, arrival;
- random IDs: transaction IDs, session IDs, the IDs that LiteLLM mints for Anthropic, the time in a cache hit's ID;
- the providers' addresses in `api_base`. `metadata` is cut down to what describes the request and its cost.

Then it breaks what production breaks: 2 % of the events are lost, some are doubled, repriced, stripped of their cost,
sent to another team or minutes late, and some rows are lost. Every event says in `fate` what became of it, and in `row`
which row is its own.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import sys
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from real_litellm.live import RequestSpec  # noqa: E402
from real_litellm.loopback import note_taking_lago  # noqa: E402
from real_litellm.versions import NEWEST, LiteLLM, interpreter  # noqa: E402

from reconcile.sandbox.traffic import EVENT_CODE  # noqa: E402

ENVIRONMENTS = ROOT / ".pytest_cache" / "d" / "litellm"  # the tests' own
TARGET = ROOT / "reconcile" / "sandbox" / "data" / "sample_traffic.json.gz"
SEED = 20261123
DAYS = 4
REQUESTS = 1_900
CHARGE_BYS = ("end_user_id", "user_id", "team_id")
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
FIRST = -(DAYS - 1) * DAY  # times are milliseconds after the midnight (UTC) that begins the newest day
LAST = DAY - 10 * MINUTE  # nothing ends later: an event must not arrive on the day after the newest

TEAMS = {
    "team-research": ("user-ada", "user-grace", "user-linus"),
    "team-support": ("user-edsger", "user-barbara"),
    "team-product": ("user-donald", "user-margaret", "user-tim"),
}
ORGANIZATION = "org-acme"
END_USERS = tuple(f"customer-{number:02d}" for number in range(1, 25))
WEIGHT_OF_HOUR = (1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 17, 15, 11, 15, 18, 17, 14, 9, 6, 4, 3, 3, 2, 2)
ADDRESSES = {
    "openai": "https://api.openai.com",
    "text-completion-openai": "https://api.openai.com",
    "azure": "https://acme-eu.openai.azure.com",
    "anthropic": "https://api.anthropic.com",
    "hosted_vllm": "http://vllm.internal:8000",
}
KEPT_METADATA = (
    "user_api_key",
    "user_api_key_team_id",
    "user_api_key_user_id",
    "user_api_key_org_id",
    "status",
    "error_information",
    "guardrail_information",
    "original_model_group",
)
KEPT_COSTS = ("input_cost", "output_cost", "guardrail_cost", "total_cost")


@dataclass(frozen=True)
class Plan:
    """One request and its times, in ms after the midnight of the newest day. `lost_row`: LiteLLM loses its row."""

    spec: RequestSpec
    start: int
    first_token: int
    end: int
    arrival: int
    lost_row: bool = False


@dataclass
class Post:
    """A live event under each charge-by (None: LiteLLM posts none) and what became of it."""

    request_id: str | None
    received_ms: int
    transaction_id: str
    ids: dict[str, str | None]
    properties: dict[str, Any]
    fate: str = "arrived"


@dataclass
class Taken:
    """What LiteLLM made of one plan: its row, and what it posted under each charge-by."""

    row: dict[str, Any]
    posts: dict[str, dict[str, Any]] = field(default_factory=dict)


def main() -> None:
    rng = random.Random(SEED)
    plans = plan_requests(rng)
    taken = take_down(plans)
    rows = [
        stored_row(plan, one.row, rng) for plan, one in zip(plans, taken, strict=True)
    ]  # for lost rows too: their draws from the seed must not depend on the fates
    posts = [
        post
        for plan, one, row in zip(plans, taken, rows, strict=True)
        if (post := live_event(plan, one, row, rng)) is not None
    ]
    kept = [row for plan, row in zip(plans, rows, strict=True) if not plan.lost_row]
    posts = sorted(break_events(posts, kept, rng), key=lambda post: (post.received_ms, post.transaction_id))
    write(kept, posts)


def plan_requests(rng: random.Random) -> list[Plan]:
    plans = [timed(rng, spec, office_hours(rng)) for spec in everyday_requests(rng)]
    plans += twins(rng)
    plans += cache_hits(rng)
    plans += oddities(rng)
    return sorted(plans, key=lambda plan: (plan.start, plan.end))


def everyday_requests(rng: random.Random) -> list[RequestSpec]:
    return [everyday_request(rng) for _ in range(REQUESTS)]


def everyday_request(rng: random.Random) -> RequestSpec:
    kind = rng.choices(("chat", "embedding", "responses", "messages", "text", "image"), (80, 10, 5, 2, 2, 1))[0]
    stream = kind == "chat" and rng.random() < 0.35
    model = model_of(rng, kind)
    if model == "nova":
        stream = False  # its answers are mocked whole
    team = rng.choices((*TEAMS, None), (45, 30, 22, 3))[0]
    user = rng.choice(TEAMS[team]) if team and rng.random() < 0.95 else None
    end_user, header_end_user = None, None
    by = rng.random()
    if by < 0.5:
        end_user = rng.choice(END_USERS)
    elif by < 0.58:
        header_end_user = rng.choice(END_USERS)
    elif by < 0.583:
        end_user = ""
    return RequestSpec(
        model=model,
        kind=kind,
        sync=kind in ("chat", "embedding") and rng.random() < 0.08,
        stream=stream,
        prompt_tokens=tokens(rng, 2_000, 1.1),
        completion_tokens=tokens(rng, 350, 0.9),
        team_id=team,
        user_id=user,
        organization_id=ORGANIZATION if team else None,
        end_user=end_user,
        header_end_user=header_end_user,
        fails=rng.random() < 0.03,
        guardrail_cost=0.0004 if kind == "chat" and rng.random() < 0.004 else 0.0,
        reply=f"{rng.getrandbits(128):032x}",
        call_id=new_uuid(rng),
    )


def model_of(rng: random.Random, kind: str) -> str:
    if kind == "chat":
        names = ("gpt-4o-mini", "gpt-4o", "claude", "gpt-4o-eu", "nova", "qwen", "bare")
        return rng.choices(names, (38, 20, 15, 8, 7, 10, 2))[0]
    names_of_kind = {"embedding": "embed", "responses": "gpt-4o", "messages": "claude", "text": "instruct"}
    return names_of_kind.get(kind, "image")


def timed(rng: random.Random, spec: RequestSpec, start: int, duration: int | None = None) -> Plan:
    if duration is None:
        duration = usual_duration(rng, spec)
    end = start + duration
    first_token = start + max(1, min(duration, int(rng.gauss(500, 150)))) if spec.stream else end
    return Plan(spec, start, first_token, end, end + latency(rng))


def usual_duration(rng: random.Random, spec: RequestSpec) -> int:
    if spec.kind == "embedding":
        return rng.randint(40, 400)
    if spec.fails:
        return rng.choice((120, 900, 30_000, 60_000)) + rng.randint(0, 80)
    return 300 + spec.completion_tokens * rng.randint(8, 30)


def office_hours(rng: random.Random) -> int:
    while True:
        hour = rng.choices(range(24), WEIGHT_OF_HOUR)[0]
        start = FIRST + rng.randrange(DAYS) * DAY + hour * HOUR + rng.randrange(HOUR)
        if start < LAST - 5 * MINUTE:
            return start


def latency(rng: random.Random) -> int:
    """From the end of the call to Lago: 2 ms on an idle machine, up to the callback's deadline of 20 s."""
    return min(20_000, 2 + int(rng.lognormvariate(math.log(25), 1.3)))


def twins(rng: random.Random) -> list[Plan]:
    """Requests equal in everything a live event tells, ending within the same second."""
    plans = []
    for size in (2, 2, 2, 2, 2, 2, 3, 3, 5):
        spec = replace(everyday_request(rng), kind="chat", stream=False, sync=False, fails=False)
        spec = replace(spec, model="gpt-4o-mini", team_id="team-support", user_id="user-edsger")
        start = office_hours(rng) // SECOND * SECOND
        for number in range(size):
            one = replace(spec, reply=f"{rng.getrandbits(128):032x}", call_id=new_uuid(rng))
            plans.append(timed(rng, one, start + number * 7, 400))
    return plans


def cache_hits(rng: random.Random) -> list[Plan]:
    """A request, and the same again from LiteLLM's cache: cost 0, all the tokens."""
    plans = []
    for number in range(25):
        kind, model = ("responses", "gpt-4o") if number == 0 else ("chat", rng.choice(("gpt-4o-mini", "gpt-4o")))
        spec = replace(everyday_request(rng), kind=kind, model=model, stream=False, sync=False, fails=False)
        spec = replace(spec, cached=True, guardrail_cost=0.0)
        first = timed(rng, spec, office_hours(rng))
        again = replace(spec, call_id=new_uuid(rng))
        plans += [first, timed(rng, again, first.end + rng.randint(2 * SECOND, 3 * MINUTE), rng.randint(1, 4))]
    return plans


def oddities(rng: random.Random) -> list[Plan]:
    def chat(**more: Any) -> RequestSpec:
        spec = replace(everyday_request(rng), kind="chat", model="gpt-4o", fails=False, guardrail_cost=0.0)
        return replace(spec, team_id="team-research", user_id="user-ada", organization_id=ORGANIZATION, **more)

    plans = []
    for midnight in range(FIRST + DAY, DAY, DAY):  # streams over midnight
        for _ in range(3):
            length = rng.randint(20 * SECOND, 4 * MINUTE)
            spec = chat(stream=True, sync=False)
            plans.append(timed(rng, spec, midnight - rng.randrange(1, length), length))
    for _ in range(25):  # calls of many minutes
        start = max(FIRST, office_hours(rng) - HOUR)
        plans.append(timed(rng, chat(stream=True, sync=False), start, rng.randint(4, 45) * MINUTE))
    # nine hours, over midnight
    plans.append(timed(rng, chat(stream=True, sync=False), -DAY - 3 * HOUR - 1_234, 9 * HOUR))
    # a clock that was set back during the call: it starts 2 s after its end
    plans.append(timed(rng, chat(stream=False, sync=False), -DAY + 11 * HOUR + 17_450, -2 * SECOND))
    for _ in range(2):  # a failed request that cost money: the guardrail was paid for
        spec = replace(chat(stream=False, sync=False), fails=True, guardrail_cost=0.0004)
        plans.append(timed(rng, spec, office_hours(rng)))
    for _ in range(3):  # a request whose row LiteLLM loses
        plans.append(replace(timed(rng, chat(stream=False, sync=False), office_hours(rng)), lost_row=True))
    return plans


def take_down(plans: list[Plan]) -> list[Taken]:
    """Send every plan through LiteLLM, once per charge-by; its rows must be the same every time."""
    taken: list[Taken] = []
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with note_taking_lago() as (base, posts), LiteLLM(NEWEST, interpreter(NEWEST, ENVIRONMENTS)) as litellm:
        for charge_by in CHARGE_BYS:
            with litellm.gateway(base, "key", EVENT_CODE, charge_by) as send:
                for number, plan in enumerate(plans):
                    seen = len(posts)
                    row = send(plan.spec)
                    if charge_by == CHARGE_BYS[0]:
                        taken.append(Taken(row))
                    elif constant(row) != constant(taken[number].row):
                        raise SystemExit(f"LiteLLM made another row of the same request: {plan.spec}")
                    new = posts[seen:]
                    if len(new) > 1:
                        raise SystemExit(f"LiteLLM posted {len(new)} events for one request: {plan.spec}")
                    if new:
                        taken[number].posts[charge_by] = new[0].body["event"]
            print(f"{charge_by}: {len(plans)} requests, {len(posts)} events so far", flush=True)
    return taken


def constant(row: dict[str, Any]) -> dict[str, Any]:
    """The part of a row that does not change from run to run."""
    names = ("call_type", "model", "spend", "team_id", "user", "end_user", "prompt_tokens", "completion_tokens")
    return {name: row[name] for name in (*names, "total_tokens", "cache_hit", "status", "litellm_call_id")}


def stored_row(plan: Plan, row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The row with the plan's times and with nothing random left in it."""
    written = plan.end + rng.randint(1 * SECOND, 30 * SECOND)  # LiteLLM's write queue
    session, minted = new_uuid(rng), new_uuid(rng)
    request_id = row["request_id"]
    if plan.spec.model == "claude" and plan.spec.kind == "chat" and not plan.spec.fails:
        request_id = f"chatcmpl-{minted}"
    request_id = re.sub(r"(?<=_cache_hit).*", f"{seconds(plan.end)}", request_id)
    return {
        **row,
        "request_id": request_id,
        "startTime": plan.start,
        "endTime": plan.end,
        "completionStartTime": plan.first_token,
        "request_duration_ms": plan.end - plan.start,
        "session_id": session,
        "api_base": re.sub(r"^http://127\.0\.0\.1:\d+", ADDRESSES.get(row["custom_llm_provider"], ""), row["api_base"]),
        "metadata": trimmed(json.loads(row["metadata"])),
        "created_at": written,
        "updated_at": written,
    }


def trimmed(metadata: dict[str, Any]) -> str:
    kept = {name: metadata[name] for name in KEPT_METADATA if metadata.get(name) is not None}
    kept.get("error_information", {}).pop("traceback", None)
    if costs := metadata.get("cost_breakdown"):
        kept["cost_breakdown"] = {name: costs[name] for name in KEPT_COSTS if name in costs}
    if map_key := (metadata.get("model_map_information") or {}).get("model_map_key"):
        kept["model_map_information"] = {"model_map_key": map_key}
    return json.dumps(kept, sort_keys=True)


def live_event(plan: Plan, taken: Taken, row: dict[str, Any], rng: random.Random) -> Post | None:
    transaction_id = new_uuid(rng)
    if not taken.posts:
        return None
    bodies = list(taken.posts.values())
    if any(body["properties"] != bodies[0]["properties"] for body in bodies):
        raise SystemExit(f"LiteLLM's events of one request differ: {plan.spec}")
    ids = {
        charge_by: taken.posts[charge_by]["external_subscription_id"] if charge_by in taken.posts else None
        for charge_by in CHARGE_BYS
    }
    fate = "orphan" if plan.lost_row else "guardrail" if plan.spec.guardrail_cost else "arrived"
    request_id = None if plan.lost_row else row["request_id"]
    return Post(request_id, plan.arrival, transaction_id, ids, bodies[0]["properties"], fate)


def break_events(posts: list[Post], rows: list[dict[str, Any]], rng: random.Random) -> list[Post]:
    """Lose 2 % of the events; double four, reprice three, send one to another team, strip three of their cost, and keep
    three back for minutes."""
    sound = [post for post in posts if post.fate == "arrived"]
    for post in rng.sample(sound, round(len(posts) * 0.02)):
        post.fate = "lost"
    for group in twin_events(posts)[:2]:  # which of the twins is missing, nobody can know
        group[0].fate = "lost"
    # these are told apart by their values alone, so they need values that nobody else has
    telling = [
        post
        for post in sound
        if post.fate == "arrived"
        and post.received_ms < LAST - HOUR
        and all(post.ids.values())
        and "prompt_tokens" in post.properties
        and (post.properties["response_cost"] or 0) > 0.001
        and sum(other.properties == post.properties for other in posts) == 1
    ]
    chosen = rng.sample(telling, 14)
    doubles = []
    for post in chosen[:4]:
        later = post.received_ms + rng.randint(20, 9_000)
        doubles.append(replace(post, transaction_id=new_uuid(rng), received_ms=later, fate="doubled"))
    for post in chosen[4:7]:
        post.properties = {**post.properties, "response_cost": post.properties["response_cost"] * 1.25}
        post.fate = "other_cost"
    chosen[7].ids = {
        "team_id": another(rng, list(TEAMS), chosen[7].ids["team_id"]),
        "user_id": another(rng, [user for users in TEAMS.values() for user in users], chosen[7].ids["user_id"]),
        "end_user_id": another(rng, list(END_USERS), chosen[7].ids["end_user_id"]),
    }
    chosen[7].fate = "misdirected"
    for post, nothing in zip(chosen[8:11], (None, None, 0.0), strict=True):
        post.properties = {**post.properties, "response_cost": nothing}
        post.fate = "no_cost"
    for post in chosen[11:]:  # LiteLLM's logging queue, while Lago was slow
        post.received_ms += rng.randint(6 * MINUTE, 25 * MINUTE)
        post.fate = "late"
    return [*posts, *doubles]


def twin_events(posts: list[Post]) -> list[list[Post]]:
    """Groups of events of equal content that all arrived, largest first."""
    groups: dict[str, list[Post]] = defaultdict(list)
    for post in posts:
        groups[json.dumps([post.ids, post.properties])].append(post)
    twins = [group for group in groups.values() if len(group) > 1 and {post.fate for post in group} == {"arrived"}]
    return sorted(twins, key=len, reverse=True)


def another(rng: random.Random, names: list[str], name: str | None) -> str:
    return rng.choice([other for other in names if other != name])


def write(rows: list[dict[str, Any]], posts: list[Post]) -> None:
    row_number = {row["request_id"]: number for number, row in enumerate(rows)}
    events = [{**vars(post), "row": row_number.get(post.request_id)} for post in posts]
    data = {
        "about": "Four days of spend-log rows and live events, made by LiteLLM, column by column. Times are in ms"
        " after the midnight (UTC) that begins the newest day. `row` is the number of the event's row.",
        "made_by": "tools/make_sample_traffic.py",
        "litellm": NEWEST,
        "seed": SEED,
        "rows": {name: [row[name] for row in rows] for name in rows[0]},
        "events": {name: [event[name] for event in events] for name in events[0] if name != "request_id"},
    }
    text = json.dumps(data, separators=(",", ":"))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    fates = dict(Counter(post.fate for post in posts))
    print(f"{len(rows)} rows, {len(posts)} events {fates}, {TARGET.stat().st_size:,} bytes")


def tokens(rng: random.Random, median: int, spread: float) -> int:
    return min(60_000, max(3, int(rng.lognormvariate(math.log(median), spread))))


def new_uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def seconds(ms: int) -> float:
    """Unix seconds, on the day that the seed names."""
    newest = date(SEED // 10_000, SEED // 100 % 100, SEED % 100)
    return (newest - date(1970, 1, 1)).days * 86_400 + ms / 1_000


if __name__ == "__main__":
    main()
