"""Rows that LiteLLM wrote twice for one call, and further looks at a finished job."""

from __future__ import annotations

from random import Random
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.classify.second_writing import overlapping, repeat, same_call

from .worlds import BASE, modest, rows_frame
from .worlds import row as any_row

Record = dict[str, Any]


def written(request_id: str, start: int = 0, end: int = 10, **changes: Any) -> Record:
    record: Record = {
        "request_id": request_id,
        "start_ms": BASE + start,
        "usage_ms": BASE + end,
        "charge_id": "team1",
        "api_key": "k1",
        "call_type": "acompletion",
        "spend": 5.4e-06,
        "prompt_tokens": 12,
        "completion_tokens": 6,
        "total_tokens": 18,
        "session_id": "s1",
        "litellm_call_id": "",
    }
    assert changes.keys() <= record.keys()
    return record | changes


COLUMNS = list(written("r"))
TEXT = ["request_id", "charge_id", "api_key", "call_type", "session_id", "litellm_call_id"]


def frame(records: list[Record]) -> pd.DataFrame:
    made = pd.DataFrame(records, columns=COLUMNS)
    numbers = {name: "int64" for name in COLUMNS if name not in TEXT} | {"spend": "float64"}
    made = made.astype(dict.fromkeys(TEXT, "str") | numbers)
    return made.astype(dict.fromkeys(("charge_id", "call_type", "api_key"), "category"))


def held(missing: list[Record], others: list[Record] | None = None) -> list[bool]:
    answers: list[bool] = same_call(frame(missing), frame(others or [])).tolist()
    return answers


def repeated(missing: list[Record], others: list[Record] | None = None) -> list[bool]:
    answers: list[bool] = repeat(frame(missing), frame(others or [])).tolist()
    return answers


OUTER, INNER = written("outer", 0, 20), written("inner", 2, 18)


class TestSameCall:
    def test_of_two_missing_rows_the_first_is_sent(self) -> None:
        assert held([INNER, OUTER]) == [True, False]

    @pytest.mark.parametrize(("missing", "other"), [(OUTER, INNER), (INNER, OUTER)])
    def test_where_the_other_has_its_event_none_is(self, missing: Record, other: Record) -> None:
        assert held([missing], [other]) == [True]

    @pytest.mark.parametrize(("left", "right"), [((0, 10), (0, 20)), ((0, 20), (0, 10)), ((0, 20), (2, 20))])
    def test_rows_that_begin_or_end_together_lie_within_each_other(
        self, left: tuple[int, int], right: tuple[int, int]
    ) -> None:
        assert held([written("a", *left), written("b", *right)]) == [False, True]

    def test_of_three_the_first_is_sent(self) -> None:
        assert held([OUTER, INNER, written("x", 3, 17)]) == [False, True, True]

    def test_at_one_time_the_name_decides(self) -> None:
        assert held([written("b"), written("a")]) == [True, False]

    @pytest.mark.parametrize(
        "changes",
        [
            {"charge_id": "team2"},
            {"api_key": "k2"},
            {"spend": 5.5e-06},
            {"prompt_tokens": 13},
            {"completion_tokens": 7},
            {"total_tokens": 19},
            {"session_id": "s2"},
            {"session_id": ""},
            {"usage_ms": BASE + 21},  # it overlaps, and is not inside
            {"start_ms": BASE + 30, "usage_ms": BASE + 40},
        ],
    )
    def test_two_calls(self, changes: Record) -> None:
        assert held([OUTER, INNER | changes]) == [False, False]

    def test_without_any_session_nothing_is_known(self) -> None:
        assert held([OUTER | {"session_id": ""}, INNER | {"session_id": ""}]) == [False, False]

    @pytest.mark.parametrize("call_type", ["responses", "aresponses", ""])
    def test_the_call_type_may_differ(self, call_type: str) -> None:
        assert held([OUTER, INNER | {"call_type": call_type}]) == [False, True]

    @pytest.mark.parametrize(
        ("of_inner", "label"),
        [
            ({"litellm_call_id": "c1"}, True),
            ({"litellm_call_id": "c1", "session_id": "other"}, True),
            ({"litellm_call_id": "c1", "usage_ms": BASE + 21}, True),
            ({"litellm_call_id": "c2"}, False),  # one session, and two calls
            ({"litellm_call_id": ""}, True),
            ({"litellm_call_id": "c1", "spend": 1.0}, False),  # a client may send one ID with every call
            ({"litellm_call_id": "c1", "start_ms": BASE + 30, "usage_ms": BASE + 40}, False),
        ],
    )
    def test_the_call_id_has_the_last_word(self, of_inner: Record, label: bool) -> None:
        assert held([OUTER | {"litellm_call_id": "c1"}, INNER | of_inner]) == [False, label]

    def test_a_row_is_not_its_own_second_writing(self) -> None:
        assert held([OUTER], [OUTER]) == [False]

    def test_a_row_that_ends_before_it_starts(self) -> None:
        assert held([OUTER, INNER | {"usage_ms": BASE - 5}]) == [False, True]

    def test_nothing(self) -> None:
        assert held([]) == []
        assert held([], [OUTER]) == []


class TestRepeat:
    LOOK = written("look", 0, call_type="aget_responses")

    @pytest.mark.parametrize("call_type", ["aget_responses", "aretrieve_batch", "acreate_batch", "afile_retrieve"])
    def test_a_further_look(self, call_type: str) -> None:
        look = self.LOOK | {"call_type": call_type}
        again = look | {"request_id": "again", "start_ms": BASE + 86_400_000}
        assert repeated([again, look]) == [True, False]
        assert repeated([again], [look]) == [True]
        assert repeated([look], [again]) == [False]

    def test_five_looks(self) -> None:
        looks = [self.LOOK | {"request_id": f"l{i}", "start_ms": BASE + i} for i in range(5)]
        assert repeated(looks) == [False, True, True, True, True]
        assert repeated(looks[2:], looks[:2]) == [True, True, True]

    def test_another_kind_of_look_at_it(self) -> None:
        assert repeated(
            [self.LOOK], [self.LOOK | {"request_id": "r0", "start_ms": BASE - 1, "call_type": "acreate_batch"}]
        )

    @pytest.mark.parametrize("call_type", ["aresponses", "responses"])
    def test_the_call_that_made_the_response(self, call_type: str) -> None:
        assert repeated([self.LOOK], [written("made", -9, call_type=call_type)]) == [True]
        assert repeated([self.LOOK, written("made", -9, call_type=call_type)]) == [True, False]

    def test_a_job_in_the_background_is_billed_at_its_first_look(self) -> None:
        """Beside an equal call whose answer came at once."""
        nothing = dict.fromkeys(("spend", "prompt_tokens", "completion_tokens", "total_tokens"), 0)
        around = [written("plain", -9, call_type="aresponses"), written("made", -5, call_type="aresponses", **nothing)]
        again = self.LOOK | {"request_id": "again", "start_ms": BASE + 5}
        assert repeated([self.LOOK, again], around) == [False, True]
        assert repeated([self.LOOK], [around[0], around[1] | {"api_key": "k2"}]) == [True]
        assert repeated([self.LOOK], [around[0], around[1] | {"start_ms": BASE + 1}]) == [True]

    @pytest.mark.parametrize(
        "changes",
        [
            {"charge_id": "team2"},
            {"api_key": "k2"},
            {"spend": 1.0},
            {"prompt_tokens": 1},
            {"completion_tokens": 1},
            {"total_tokens": 1},
            {"call_type": "acompletion"},
            {"start_ms": BASE + 1},
        ],
    )
    def test_what_is_no_earlier_look(self, changes: Record) -> None:
        assert repeated([self.LOOK], [self.LOOK | {"request_id": "r0", "start_ms": BASE - 1} | changes]) == [False]

    def test_a_look_that_cost_nothing_is_none(self) -> None:
        looks = [self.LOOK | {"request_id": f"l{i}", "spend": 0.0} for i in range(2)]
        assert repeated(looks) == [False, False]

    def test_other_calls_are_none(self) -> None:
        assert repeated([written("a", call_type="aresponses"), written("b", call_type="aresponses")]) == [False, False]

    def test_a_row_is_not_its_own_repeat(self) -> None:
        assert repeated([self.LOOK], [self.LOOK]) == [False]

    def test_nothing(self) -> None:
        assert repeated([]) == []


def call(request_id: str, start: int, end: int, **changes: Any) -> Record:
    """A row of the spend log that lasted from `start` to `end`."""
    return any_row(request_id, end, start_ms=BASE + start, **changes)


def beside(*rows: Record) -> list[str]:
    """The rows that could be two writings of one call."""
    found = overlapping(rows_frame(rows))
    assert set(found) <= {(r["request_id"], r["start_ms"]) for r in rows}
    return sorted(name for name, _ in found)


class TestOverlapping:
    """Only such rows are read a second time, with their call IDs; a row that is left out here is sent as it is."""

    def test_rows_of_equal_content_that_overlap(self) -> None:
        assert beside(call("a", 0, 20), call("b", 2, 18), call("later", 21, 30)) == ["a", "b"]

    def test_one_that_begins_as_the_other_ends(self) -> None:
        assert beside(call("a", 0, 20), call("b", 20, 30)) == ["a", "b"]
        assert beside(call("a", 0, 20), call("b", 21, 30)) == []

    def test_a_long_call_covers_those_that_begin_after_a_short_one_has_ended(self) -> None:
        assert beside(call("long", 0, 100), call("short", 1, 5), call("late", 90, 120)) == ["late", "long", "short"]

    def test_a_row_that_ends_before_it_starts_lies_at_its_start(self) -> None:
        assert beside(call("a", 0, 20), call("b", 10, -500)) == ["a", "b"]
        assert beside(call("a", 0, 20), call("b", 30, 10)) == []

    @pytest.mark.parametrize(
        "changes",
        [{"charge_id": "b"}, {"spend": 0.5}, {"prompt_tokens": 11}, {"completion_tokens": 5}],
    )
    def test_of_other_content_they_are_two_calls(self, changes: Record) -> None:
        assert beside(call("a", 0, 20), call("b", 2, 18, **changes)) == []
        twins = [call("c", 2, 18, **changes), call("d", 4, 6, **changes)]
        assert beside(call("a", 0, 20), *twins) == ["c", "d"]

    @pytest.mark.parametrize("spend", [0.0, -1.0, float("nan")])
    def test_what_costs_nothing_is_billed_once_however_often_it_was_written(self, spend: float) -> None:
        assert beside(call("a", 0, 20, spend=spend), call("b", 2, 18, spend=spend)) == []

    def test_alone_or_not_at_all(self) -> None:
        assert beside() == []
        assert beside(call("a", 0, 20)) == []

    @pytest.mark.parametrize("seed", range(6))
    def test_as_the_plainest_comparison_says(self, seed: int) -> None:
        chance = Random(seed)
        rows = []
        for i in range(60):
            start = chance.randint(0, 400)
            of = {"charge_id": chance.choice("ab"), "spend": chance.choice((0.25, 0.5)), "prompt_tokens": i % 2}
            rows.append(call(f"r{i}", start, start + chance.choice((0, 3, 9, 60)), **of))
        content = ("charge_id", "spend", "prompt_tokens", "completion_tokens")
        expected = {
            left["request_id"]
            for left in rows
            for right in rows
            if left is not right
            and all(left[name] == right[name] for name in content)
            and left["start_ms"] <= right["usage_ms"]
            and right["start_ms"] <= left["usage_ms"]
        }
        assert 0 < len(expected) < len(rows)
        assert set(beside(*rows)) == expected


@modest
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_input(chance: Random) -> None:
    check_order(chance)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_ordinary_input(seed: int) -> None:
    assert check_order(Random(seed)) == {(same_call, True), (same_call, False), (repeat, True), (repeat, False)}


def check_order(chance: Random) -> set[tuple[Any, bool]]:
    """What was answered."""

    def any_row(name: str) -> Record:
        start = chance.randint(0, 9)
        return written(
            name,
            start,
            start + chance.randint(0, 9),
            call_type=chance.choice(("acompletion", "aresponses", "aget_responses", "aretrieve_batch")),
            session_id=chance.choice(("", "s1", "s2")),
            litellm_call_id=chance.choice(("", "c1", "c2")),
            total_tokens=chance.choice((18, 19)),
        )

    missing, others = ([any_row(f"{side}{i}") for i in range(40)] for side in "mo")
    told = set()
    for predicate in (same_call, repeat):
        expected = dict(zip((r["request_id"] for r in missing), predicate(frame(missing), frame(others)), strict=True))
        mixed, around = (chance.sample(rows, len(rows)) for rows in (missing, others))
        got = dict(zip((r["request_id"] for r in mixed), predicate(frame(mixed), frame(around)), strict=True))
        assert got == expected
        told |= {(predicate, bool(answer)) for answer in expected.values()}
    # Of each group the first that is missing is sent, unless another has its event.
    assert not all(held(missing))
    return told
