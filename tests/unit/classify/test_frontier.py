"""How far both sides are settled: what waits for later events is decided about by this."""

from __future__ import annotations

from collections.abc import Sequence

from reconcile.classify import Classification

from .worlds import BASE, REACH, RULES, Record, events_frame, live, row, rows_frame

SETTLED = REACH.before + REACH.after + 1


class TestFrontier:
    """A row before the frontier has seen every event that could be its own: sending it earlier may bill it twice."""

    def frontiers(self, rows: Sequence[Record], events: Sequence[Record], *horizons: int | None) -> list[int]:
        """After each call, in milliseconds after BASE; all records come with the first."""
        classification = Classification(RULES)
        found = []
        for horizon in horizons:
            classification.settle(rows_frame(rows), events_frame(events), None if horizon is None else BASE + horizon)
            found.append(classification.frontier_ms - BASE)
            rows, events = [], []
        return found

    def test_where_nothing_waits_it_is_how_far_was_read(self) -> None:
        assert self.frontiers([], [], 10, 20) == [10, 20]

    def test_it_does_not_pass_a_row_that_waits(self) -> None:
        rows = [row("r1", at=5), row("r2", at=3, spend=0.5)]
        assert self.frontiers(rows, [], 9, 3 + SETTLED, 5 + SETTLED) == [3, 5, 5 + SETTLED]

    def test_it_does_not_pass_an_event_that_waits(self) -> None:
        assert self.frontiers([row(at=5)], [live(at=4)], 9) == [4]
        assert self.frontiers([], [live(at=4)], 9, 4 + SETTLED) == [4, 4 + SETTLED]

    def test_before_anything_was_read_it_lies_before_every_time(self) -> None:
        assert Classification(RULES).frontier_ms < -(10**15)

    def test_after_the_last_call_it_lies_behind_every_time(self) -> None:
        assert self.frontiers([row()], [live(at=900)], None)[0] > 10**15


class TestLatestWaitingRow:
    """Events have to be read on for a row that waits, even though it is not known to be missing yet."""

    def latest(self, *rows: Record, until: int) -> int | None:
        classification = Classification(RULES)
        classification.settle(rows_frame(rows), events_frame([]), BASE + until)
        return classification.latest_waiting_ms

    def test_of_several_the_latest_counts(self) -> None:
        assert self.latest(row("r1", at=5), row("r2", at=7, spend=0.5), until=9) == BASE + 7

    def test_settled_rows_do_not_wait(self) -> None:
        assert self.latest(row(at=5), until=5 + SETTLED) is None

    def test_what_was_read_for_its_neighbours_sake_waits_for_nobody(self) -> None:
        assert self.latest(row("r1", at=5), row("r2", at=7, scope="context"), until=9) == BASE + 5
