"""What the metric reads of an event, and which of a row's own numbers that is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from reconcile.lago import EventShape, Metric

_NUMBER_OF = {
    "response_cost": "spend",
    "prompt_tokens": "prompt_tokens",
    "input_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "output_tokens": "completion_tokens",
    "total_tokens": "total_tokens",
}
_READ = ("model", "response_cost", "prompt_tokens", "completion_tokens", "total_tokens", "request_id")


def own_number(metric: Metric, properties: Mapping[str, str]) -> str | None:
    """The column of a row that the metric's field is sent from; `one` where events are counted, None for no number.

    `properties` maps our names of properties to those under which they are sent. An expression's result is nobody's
    column.
    """
    if metric.aggregation_type == "count_agg":
        return "one"
    if metric.expression:
        return None
    for name, sent_as in properties.items():
        if sent_as == metric.field_name:
            return _NUMBER_OF.get(name)
    return _NUMBER_OF.get(metric.field_name or "")


def event_shape(metric: Metric, properties: Mapping[str, str], *, clickhouse: bool) -> EventShape:
    """Where an event's values stand: under the name they are sent with, or under the one that LiteLLM uses."""
    return EventShape(
        **{name: tuple(dict.fromkeys((properties.get(name, name), name))) for name in _READ},
        field_name=metric.field_name,
        aggregation=metric.aggregation_type,
        store="clickhouse" if clickhouse else "postgres",
    )
