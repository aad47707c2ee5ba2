"""What the metric and the plans' charges do to the bill that nobody expects, in plain words. Pure: computes no money.

Nothing here looks at a row or an event. It is said before the first run, and again as findings of each run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from reconcile.domain.vocabulary import FindingKind
from reconcile.lago.items import ALL_VALUES, Charge, Metric, MetricFilter, Plan

# Aggregations that read a property of the event (Lago 1.51); count_agg counts events, custom_agg has its own code.
_READS_A_PROPERTY = ("sum_agg", "max_agg", "unique_count_agg", "weighted_sum_agg", "latest_agg")
_NUMERIC = ("sum_agg", "max_agg", "weighted_sum_agg", "latest_agg")
_TEXTS = ("model", "request_id")

# What LiteLLM's own `lago` callback puts into an event.
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
_LIVE = ("model", "response_cost", *_TOKENS)

_VARIABLE = re.compile(r"event\.properties\.(\w+)")
_NAMED_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class Remark:
    """One finding about the metric, a plan, or `count` subscriptions."""

    kind: FindingKind
    text: str
    count: int = 0


def refusal(metric: Metric, properties: Mapping[str, str]) -> str | None:
    """Why Lago would count none of the events that are sent, None where it counts them.

    `properties`: our name of each property that is sent, and the name that it is sent under (RECONCILE_PROPERTIES).
    """
    sent = set(properties.values())
    numbers = {name for inside, name in properties.items() if inside not in _TEXTS}
    if metric.expression:
        return None  # Lago computes the field by it
    if metric.aggregation_type in _READS_A_PROPERTY and metric.field_name not in sent:
        return (
            f"LAGO_API_EVENT_CODE: the metric {metric.code!r} aggregates the property {metric.field_name!r}, which the "
            f"events do not carry; they carry {', '.join(sorted(sent))}: change the metric's field, or send it under "
            "that name by RECONCILE_PROPERTIES"
        )
    if metric.aggregation_type in _NUMERIC and metric.field_name not in numbers:
        return (
            f"LAGO_API_EVENT_CODE: the metric {metric.code!r} adds up the property {metric.field_name!r}, which is no "
            f"number; numbers are {', '.join(sorted(numbers))}"
        )
    return None


def remarks(
    metric: Metric,
    plans: Mapping[str, Plan],
    properties: Mapping[str, str],
    *,
    models: Collection[str] = (),
    precise_amount: bool = False,
) -> tuple[Remark, ...]:
    """Everything that is worth saying of the metric and of plans in use, each once, in their order.

    `plans` by a name for people. `models` are those that were seen. With `precise_amount` events carry
    `precise_total_amount_cents`.
    """
    found = [*_of_metric(metric, properties)]
    for name, plan in plans.items():
        found += _of_plan(name, plan, metric, properties, models, precise_amount)
    return tuple(dict.fromkeys(found))


def plans_not_shown(unknown: int, guessed: int) -> tuple[Remark, ...]:
    """What to say of subscriptions whose plan Lago did not show, or was not asked for."""
    found = []
    if unknown:
        found.append(
            Remark(
                FindingKind.LAGO_COUNTS,
                f"Lago does not show the plans of {unknown} subscriptions: they are taken to price the metric",
                unknown,
            )
        )
    if guessed:
        found.append(
            Remark(
                FindingKind.LAGO_COUNTS,
                f"{guessed} subscriptions were judged by the plan of their plan's code: whether theirs was overridden "
                "was not asked, or Lago does not say",
                guessed,
            )
        )
    return tuple(found)


def live_events_lack(metric: Metric, properties: Mapping[str, str]) -> tuple[str, ...]:
    """What the events of LiteLLM's own `lago` callback lack for this metric, a line each."""
    if metric.expression:
        lacking = sorted(set(_VARIABLE.findall(metric.expression)) - set(_LIVE))
        texts = [_never(name, "so Lago refuses them: its expression reads it") for name in lacking]
    elif metric.aggregation_type in _READS_A_PROPERTY:
        texts = list(_field_lacking(metric, properties))
    else:
        texts = []
    texts += [
        _never(one.key, "so they fall under none of the metric's filters on it")
        for one in metric.filters
        if one.key not in _LIVE
    ]
    return tuple(texts)


def default_models(charge: Charge, metric: Metric, model_property: str | None, models: Iterable[str]) -> list[str]:
    """Of these models, those whose events surely fall into the charge's default bucket.

    A filter takes an event that has one of its values in every key that it names. Of keys other than the model's name
    nothing is known here: such a filter is taken to match.
    """

    def taken(model: str) -> bool:
        return any(
            all(one.key != model_property or model in _values(one, metric) for one in bucket)
            for bucket in charge.filters
        )

    return sorted(model for model in set(models) if model and not taken(model))


def _of_metric(metric: Metric, properties: Mapping[str, str]) -> Iterator[Remark]:
    sent = set(properties.values())
    if metric.expression:
        yield Remark(
            FindingKind.LAGO_COUNTS,
            f"metric {metric.code}: Lago computes its value by the expression {metric.expression!r}",
        )
    for one in metric.filters:
        if one.key not in sent:
            yield Remark(
                FindingKind.LAGO_COUNTS,
                f"metric {metric.code}: the filter on {one.key!r} never matches, since the events do not carry it",
            )
    if metric.recurring:
        yield Remark(
            FindingKind.METRIC_RECURRING,
            f"metric {metric.code} is recurring: what it adds up carries on into every later period and is billed "
            "there again; usage of LLMs wants a metric that is not recurring",
        )
    if metric.rounding_function:
        digits = f" to {metric.rounding_precision} digits" if metric.rounding_precision is not None else ""
        yield Remark(
            FindingKind.METRIC_ROUNDED,
            f"metric {metric.code} is rounded ({metric.rounding_function}{digits}): Lago rounds the sum of each "
            "period, so its bill differs from the spend that the rows hold",
        )


def _of_plan(
    name: str,
    plan: Plan,
    metric: Metric,
    properties: Mapping[str, str],
    models: Collection[str],
    precise_amount: bool,
) -> Iterator[Remark]:
    sent = set(properties.values())
    if not plan.billed:
        yield Remark(
            FindingKind.LAGO_COUNTS,
            f"plan {name} is of Lago's product catalog, for which this Lago makes no invoices: nothing of it is billed",
        )
    elif not plan.charges:
        yield Remark(
            FindingKind.LAGO_COUNTS,
            f"plan {name} has no charge on the metric {metric.code}: Lago stores the events and bills nobody",
        )
    if len(plan.charges) > 1:
        yield Remark(
            FindingKind.PRICED_TWICE,
            f"plan {name} has {len(plan.charges)} charges on the metric {metric.code}: each event is billed "
            f"{len(plan.charges)} times",
        )
    for charge in plan.charges:
        for key in charge.group_keys:
            if key not in sent:
                yield Remark(
                    FindingKind.LAGO_COUNTS,
                    f"plan {name}: usage is grouped by {key!r}, which the events do not carry",
                )
        if charge.charge_model == "dynamic" and not precise_amount:
            yield Remark(
                FindingKind.LAGO_COUNTS,
                f"plan {name}: a dynamic charge bills precise_total_amount_cents; set RECONCILE_PRECISE_AMOUNT, for "
                "example RECONCILE_PRECISE_AMOUNT=1",
            )
        if charge.default_is_free:
            yield Remark(FindingKind.PRICED_AT_ZERO, _at_zero(name, charge, metric, properties, models))


def _at_zero(name: str, charge: Charge, metric: Metric, properties: Mapping[str, str], models: Collection[str]) -> str:
    if not charge.filters:
        return f"plan {name}: its charge on the metric {metric.code} has the price 0; whatever is used costs nothing"
    begin = f"plan {name}: what falls under none of its charge's filters on the metric {metric.code} has the price 0"
    fallen = default_models(charge, metric, properties.get("model"), models)
    if fallen:
        more = "" if len(fallen) <= _NAMED_AT_MOST else f" and {len(fallen) - _NAMED_AT_MOST} more"
        return f"{begin}; of the models that were seen: {', '.join(fallen[:_NAMED_AT_MOST])}{more}"
    return f"{begin}; a model that no filter names costs nothing"


def _field_lacking(metric: Metric, properties: Mapping[str, str]) -> Iterator[str]:
    field = metric.field_name or ""
    effect = "so Lago counts none of them" if metric.aggregation_type != "unique_count_agg" else "so all count as one"
    if field in _TOKENS:
        yield (
            f"LiteLLM's own events of /v1/responses, /v1/completions and of images carry no {field}: Lago does not "
            f"count those{_repair(metric)}"
        )
    elif field not in _LIVE:
        ours = next((inside for inside, name in properties.items() if name == field), field)
        renamed = f" (they carry {ours})" if ours != field and ours in _LIVE else ""
        yield _never(field, f"{effect}{renamed}{_repair(metric)}")


def _repair(metric: Metric) -> str:
    if metric.aggregation_type != "sum_agg":
        return ""
    return "; RECONCILE_NOT_COUNTED=push sends the rows' own events in their place"


def _never(name: str, effect: str) -> str:
    return f"LiteLLM's own events never carry {name}, {effect}"


def _values(one: MetricFilter, metric: Metric) -> Collection[str]:
    if ALL_VALUES not in one.values:
        return one.values
    return [value for found in metric.filters if found.key == one.key for value in found.values]
