"""What the metric and the plans do to the bill that nobody expects, said in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reconcile.domain.vocabulary import FindingKind
from reconcile.lago.items import ALL_VALUES, Charge, Metric, MetricFilter, Plan
from reconcile.lago.pricing import default_models, live_events_lack, plans_not_shown, refusal, remarks
from reconcile.run.cross_check import remarks_on_plans

SENT = {
    name: name
    for name in (
        "model",
        "response_cost",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens",
        "output_tokens",
        "request_id",
    )
}


def metric(
    kind: str = "sum_agg",
    field: str | None = "response_cost",
    *,
    expression: str | None = None,
    recurring: bool = False,
    rounding: tuple[str, int | None] | None = None,
    filters: tuple[MetricFilter, ...] = (),
) -> Metric:
    function, digits = rounding or (None, None)
    return Metric("llm", None, None, kind, field, expression, recurring, None, function, digits, filters)


def charge(
    *filters: dict[str, tuple[str, ...]],
    model: str = "standard",
    advance: bool = False,
    groups: tuple[str, ...] = (),
    free: bool = False,
) -> Charge:
    buckets = tuple(tuple(MetricFilter(key, values) for key, values in bucket.items()) for bucket in filters)
    return Charge(model, advance, groups, buckets, free)


def said(found: Metric, *charges: Charge, models: tuple[str, ...] = (), precise: bool = False) -> list[tuple[str, str]]:
    plans = {"pro": Plan("pro", charges)}
    told = remarks(found, plans, SENT, models=models, precise_amount=precise)
    return [(remark.kind, remark.text) for remark in told]


def test_nothing_to_say_of_an_ordinary_metric_and_plan() -> None:
    assert said(metric(), charge()) == []
    assert said(metric("count_agg", None), charge(model="graduated")) == []


def test_two_charges_bill_each_event_twice() -> None:
    ((kind, text),) = said(metric(), charge(), charge(model="volume"))
    assert kind == FindingKind.PRICED_TWICE
    assert text == "plan pro has 2 charges on the metric llm: each event is billed 2 times"


def test_a_plan_without_a_price() -> None:
    ((_, none),) = said(metric())
    assert none == "plan pro has no charge on the metric llm: Lago stores the events and bills nobody"
    ((kind, text),) = ((one.kind, one.text) for one in remarks(metric(), {"new": Plan("new", (), billed=False)}, SENT))
    assert kind == FindingKind.LAGO_COUNTS
    assert "product catalog" in text


def test_a_charge_at_the_price_0() -> None:
    ((kind, text),) = said(metric(), charge(free=True), models=("gpt-4o",))
    assert kind == FindingKind.PRICED_AT_ZERO
    assert text == "plan pro: its charge on the metric llm has the price 0; whatever is used costs nothing"


def test_a_default_bucket_at_the_price_0_names_the_models_that_fall_into_it() -> None:
    free = charge({"model": ("gpt-4o",)}, {"model": ("claude",)}, free=True)
    ((kind, text),) = said(metric(), free, models=("gpt-4o", "o3", "", "gemini", "o3"))
    assert kind == FindingKind.PRICED_AT_ZERO
    assert text == (
        "plan pro: what falls under none of its charge's filters on the metric llm has the price 0; of the models that "
        "were seen: gemini, o3"
    )
    ((_, later),) = said(metric(), free, models=("gpt-4o",))
    assert later.endswith("; a model that no filter names costs nothing")
    ((_, many),) = said(metric(), free, models=tuple(f"model-{number:03}" for number in range(30)))
    assert many.endswith("model-018, model-019 and 10 more")
    assert said(metric(), charge({"model": ("gpt-4o",)}), models=("o3",)) == []


def test_which_models_fall_into_the_default_bucket() -> None:
    listed = metric(filters=(MetricFilter("model", ("a", "b")),))
    models = ["a", "b", "c"]
    assert default_models(charge({"model": (ALL_VALUES,)}), listed, "model", models) == ["c"]
    assert default_models(charge({"model": ("a",), "tier": ("x",)}), listed, "model", models) == ["b", "c"]
    # Whether a filter on another key takes an event is not known here.
    assert default_models(charge({"tier": ("x",)}), listed, "model", models) == []
    assert default_models(charge({"llm": ("a",)}), listed, "llm", models) == ["b", "c"]
    assert default_models(charge(), listed, "model", models) == models


def test_a_recurring_and_a_rounded_metric() -> None:
    ((kind, text),) = said(metric(recurring=True), charge())
    assert kind == FindingKind.METRIC_RECURRING
    assert "carries on" in text
    ((kind, text),) = said(metric(rounding=("floor", None)), charge())
    assert kind == FindingKind.METRIC_ROUNDED
    assert "(floor)" in text
    ((_, text),) = said(metric(rounding=("round", 0)), charge())
    assert "(round to 0 digits)" in text


def test_what_lago_would_not_count() -> None:
    told = said(
        metric(expression="event.properties.a", filters=(MetricFilter("region", ("eu",)),)),
        charge(groups=("model", "team"), model="dynamic"),
    )
    assert [kind for kind, _ in told] == [FindingKind.LAGO_COUNTS] * 4
    texts = [text for _, text in told]
    assert texts[0] == "metric llm: Lago computes its value by the expression 'event.properties.a'"
    assert texts[1] == "metric llm: the filter on 'region' never matches, since the events do not carry it"
    assert texts[2] == "plan pro: usage is grouped by 'team', which the events do not carry"
    assert "set RECONCILE_PRECISE_AMOUNT" in texts[3]
    assert len(said(metric(), charge(model="dynamic"), precise=True)) == 0


def test_plans_that_lago_did_not_show() -> None:
    assert plans_not_shown(0, 0) == ()
    assert [(one.text[:40], one.count) for one in plans_not_shown(3, 2)] == [
        ("Lago does not show the plans of 3 subscr", 3),
        ("2 subscriptions were judged by the plan ", 2),
    ]


def test_a_run_says_which_plans_it_could_not_see() -> None:
    run: Any = SimpleNamespace(
        sides=SimpleNamespace(metric=metric()), settings=SimpleNamespace(properties=SENT, precise_amount=None)
    )
    books: Any = SimpleNamespace(tally=SimpleNamespace(by_model=lambda: ()))
    directory: Any = SimpleNamespace(plans_in_use=dict, unknown_plans=3, guessed_plans=2)
    assert [(one.kind, one.count) for one in remarks_on_plans(run, books, directory)] == [
        (FindingKind.LAGO_COUNTS, 3),
        (FindingKind.LAGO_COUNTS, 2),
    ]


def test_one_plan_is_said_once_and_each_by_its_name() -> None:
    twice = Plan("pro", (charge(), charge()))
    told = remarks(metric(), {"pro": twice, "pro of team-a": Plan("pro", (charge(free=True),))}, SENT)
    assert [one.text.split(":")[0] for one in told] == [
        "plan pro has 2 charges on the metric llm",
        "plan pro of team-a",
    ]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (metric(field="tokens"), "aggregates the property 'tokens', which the events do not carry"),
        (metric(field=None), "aggregates the property None"),
        (metric(field="model"), "adds up the property 'model', which is no number"),
        (metric("max_agg", "request_id"), "adds up the property 'request_id', which is no number"),
        (metric("unique_count_agg", "user"), "the events do not carry"),
    ],
)
def test_a_metric_that_would_count_nothing_is_refused(found: Metric, message: str) -> None:
    text = refusal(found, SENT)
    assert text is not None
    assert message in text


@pytest.mark.parametrize(
    "found",
    [
        metric(),
        metric("count_agg", None),
        metric("unique_count_agg", "model"),
        metric("latest_agg", "input_tokens"),
        metric(field="anything", expression="event.properties.prompt_tokens"),
    ],
)
def test_a_metric_that_counts_is_not_refused(found: Metric) -> None:
    assert refusal(found, SENT) is None


def test_refusal_goes_by_the_names_that_are_sent() -> None:
    assert refusal(metric(field="cost"), {"response_cost": "cost"}) is None
    assert refusal(metric(), {"response_cost": "cost"}) is not None


PUSH = "; RECONCILE_NOT_COUNTED=push sends the rows' own events in their place"
NEVER = "LiteLLM's own events never carry"
SOME = "LiteLLM's own events of /v1/responses, /v1/completions and of images carry no"
LACKING = [
    (metric(), []),
    (metric("count_agg", None), []),
    (metric("unique_count_agg", "model"), []),
    (metric(field="total_tokens"), [f"{SOME} total_tokens: Lago does not count those{PUSH}"]),
    (metric("weighted_sum_agg", "prompt_tokens"), [f"{SOME} prompt_tokens: Lago does not count those"]),
    (metric(field="input_tokens"), [f"{NEVER} input_tokens, so Lago counts none of them{PUSH}"]),
    (metric("max_agg", "output_tokens"), [f"{NEVER} output_tokens, so Lago counts none of them"]),
    (metric("unique_count_agg", "request_id"), [f"{NEVER} request_id, so all count as one"]),
    (
        metric(field="n", expression="event.properties.prompt_tokens * 2 + event.properties.rate"),
        [f"{NEVER} rate, so Lago refuses them: its expression reads it"],
    ),
    (
        metric(filters=(MetricFilter("model", ("a",)), MetricFilter("region", ("eu",)))),
        [f"{NEVER} region, so they fall under none of the metric's filters on it"],
    ),
]


@pytest.mark.parametrize(("found", "lines"), LACKING)
def test_what_litellms_own_events_lack(found: Metric, lines: list[str]) -> None:
    assert list(live_events_lack(found, SENT)) == lines


def test_a_property_that_only_our_events_have_under_that_name() -> None:
    (line,) = live_events_lack(metric("max_agg", "cost"), SENT | {"response_cost": "cost"})
    assert line == "LiteLLM's own events never carry cost, so Lago counts none of them (they carry response_cost)"
    (line,) = live_events_lack(metric("max_agg", "id"), SENT | {"request_id": "id"})
    assert line == "LiteLLM's own events never carry id, so Lago counts none of them"
