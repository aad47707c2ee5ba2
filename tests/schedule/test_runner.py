"""One job's turns in this process: alerts once per cause, the memory, reports that cannot be written, overdue runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
import structlog.testing
import time_machine

from reconcile.ledger import Stream
from reconcile.run import deliver, job, preflight
from reconcile.settings import Settings, load
from reconcile.unattended import alerts
from reconcile.unattended.metrics import ScheduleMetrics
from reconcile.unattended.schedule.cron_file import CronJob
from reconcile.unattended.schedule.memory import Memory
from reconcile.unattended.schedule.runner import RETRY_AFTER_FAULT, RETRY_WHEN_LOCKED, PlannedJob, Runner
from reconcile.unattended.schedule.service import Overdue

from .conftest import World

SINCE = datetime(2026, 11, 2, 20, 0, tzinfo=UTC)


class Wire:
    """Takes the place of the channels: what was sent through it."""

    name = "webhook"

    def __init__(self) -> None:
        self.alerts: list[alerts.Alert] = []

    def deliver(self, alert: alerts.Alert) -> None:
        self.alerts.append(alert)

    @property
    def kinds(self) -> list[str]:
        return [alert.kind for alert in self.alerts]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(alerts, "channels", lambda _settings: [wire])
    return wire


@pytest.fixture
def runner() -> Runner:
    return Runner(ScheduleMetrics(), threading.Event())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[time_machine.Coordinates]:
    # Postgres keeps the real time, which a run would rightly refuse.
    for module in (preflight, deliver):
        monkeypatch.setattr(module, "too_far_apart", lambda *_: False)
    with time_machine.travel(SINCE, tick=True) as traveller:
        yield traveller


def settings(world: World, **environ: str) -> Settings:
    return load({**world.environment, **environ}, None)


def planned(world: World, environ: dict[str, str] | None = None, **options: Any) -> PlannedJob:
    cron_job = CronJob.model_validate({"cron": "30 1 * * *", "command": "run", **options})
    return PlannedJob("nightly", cron_job, settings(world, **(environ or {})), SINCE)


def test_nothing_is_due_before_the_first_firing(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    assert runner.work(planned(world)) is None
    assert world.query("SELECT job, fired_to, window_to FROM reconcile.schedule") == [("nightly", SINCE, None)]
    clock.move_to("2026-11-03T01:29:50Z")
    assert runner.work(planned(world)) is None
    assert world.runs() == []
    assert wire.alerts == []


def test_discrepancies_over_a_threshold_raise_an_alert_with_the_report(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    world.add_rows("2026-11-02T12:00Z")
    world.execute("UPDATE \"LiteLLM_SpendLogs\" SET team_id = 'team-without-subscription'")
    clock.move_to("2026-11-03T01:31Z")
    todo = planned(world, report={"folder": str(world.folder / "reports"), "formats": ["json"]})
    assert runner.work(todo) is None
    assert wire.kinds == ["discrepancies"]
    assert wire.alerts[0].subject == "reconcile: llm_usage: 1 held"
    (path,) = (world.folder / "reports").iterdir()
    assert f"Report: {path}\n" in wire.alerts[0].text
    assert runner.work(todo) is None  # it is settled
    assert len(world.runs()) == 1


@pytest.mark.parametrize(("own", "kinds"), [(False, []), (["held>1"], []), (["held>0.10usd"], ["discrepancies"])])
def test_a_job_s_own_thresholds(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates, own: object, kinds: list[str]
) -> None:
    world.add_rows("2026-11-02T12:00Z")
    world.execute("UPDATE \"LiteLLM_SpendLogs\" SET team_id = 'team-without-subscription'")
    clock.move_to("2026-11-03T01:31Z")
    assert runner.work(planned(world, alerts=own)) is None
    assert wire.kinds == kinds


def test_a_fault_is_told_once_for_each_night_and_tried_again_until_it_has_passed(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    world.add_rows("2026-11-02T12:00Z")
    dead = planned(world, {"LAGO_API_BASE": "http://127.0.0.1:1"})
    clock.move_to("2026-11-03T01:31Z")
    assert runner.work(dead) == RETRY_AFTER_FAULT
    assert runner.work(dead) == RETRY_AFTER_FAULT
    assert wire.kinds == ["incomplete"]
    assert "Fault (lago): LAGO_API_BASE: no answer from Lago" in wire.alerts[0].text
    clock.move_to("2026-11-04T01:31Z")
    assert runner.work(dead) == RETRY_AFTER_FAULT
    assert wire.kinds == ["incomplete"] * 2
    assert world.query("SELECT fired_to FROM reconcile.schedule") == [(SINCE,)]  # nothing is settled
    assert runner.work(planned(world)) is None
    assert sum(world.billed().values()) == 1


def test_a_refusal_is_told_once_and_waits_for_the_next_firing(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    clock.move_to("2026-11-03T01:31Z")
    wrong = planned(world, {"LAGO_API_EVENT_CODE": "unknown"})
    assert runner.work(wrong) is None
    assert runner.work(wrong) is None
    assert wire.kinds == ["refused"]
    assert "LAGO_API_EVENT_CODE: Lago has no billable metric with the code 'unknown'" in wire.alerts[0].text
    labels = {"event_code": "unknown", "charge_by": "team_id"}
    assert runner.metrics.registry.get_sample_value("reconcile_last_run_exit_code", labels) == 2
    assert (
        runner.metrics.registry.get_sample_value(
            "reconcile_alerts_total", {"channel": "webhook", "outcome": "delivered"}
        )
        == 1
    )


def test_another_run_at_work_wakes_nobody(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    clock.move_to("2026-11-03T01:31Z")
    todo = planned(world)
    stream = Stream(world.lago.url, world.lago.organization.id, "llm_usage", "team_id")
    with Memory(todo.settings) as other:
        other.migrate()
        with other.lock(stream):
            assert runner.work(todo) == RETRY_WHEN_LOCKED
    assert wire.alerts == []
    assert runner.work(todo) is None


def test_a_defect_ends_the_run_and_not_the_process(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "".join(("s3", "cret"))  # the trace quotes the lines of the code

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr(job, "run", broken)
    clock.move_to("2026-11-03T01:31Z")
    with structlog.testing.capture_logs() as logs:
        assert runner.work(planned(world)) == RETRY_AFTER_FAULT
    assert wire.kinds == ["refused"]
    assert "a defect of reconcile: RuntimeError" in wire.alerts[0].text
    assert secret not in str(logs)
    assert "in broken" in str(logs)


def test_a_report_that_cannot_be_written_does_not_fail_the_run(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    clock.move_to("2026-11-03T01:31Z")
    (world.folder / "taken").write_text("a file")
    with structlog.testing.capture_logs() as logs:
        assert runner.work(planned(world, report={"folder": str(world.folder / "taken")})) is None
    assert any(line["event"] == "report not written" for line in logs)
    assert world.runs()[0][0] == 0


def test_a_stopped_runner_begins_nothing(world: World, runner: Runner, clock: time_machine.Coordinates) -> None:
    clock.move_to("2026-11-03T01:31Z")
    runner.stop.set()
    assert runner.work(planned(world)) is None
    assert not world.query("SELECT 1 FROM pg_namespace WHERE nspname = 'reconcile'")


def test_no_finished_run_for_too_long_is_told_once_for_each_such_time(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    todo = planned(world)
    overdue = Overdue(runner, SINCE)
    clock.move_to("2026-11-03T01:31Z")
    assert runner.work(todo) is None
    overdue.check([todo])
    clock.move_to("2026-11-04T03:30Z")  # 25:59 later
    overdue.check([todo])
    assert wire.alerts == []
    clock.move_to("2026-11-04T03:32Z")
    overdue.check([todo])
    overdue.check([todo])
    assert wire.kinds == ["overdue"]
    assert "The last finished run ended at 2026-11-03T01:31" in wire.alerts[0].text
    clock.move_to("2026-11-05T05:33Z")
    overdue.check([todo])
    assert wire.kinds == ["overdue"] * 2
    assert runner.work(todo) is None
    clock.move_to("2026-11-06T05:33Z")
    overdue.check([todo])
    assert len(wire.alerts) == 2


def test_overdue_where_no_run_has_ever_finished_or_the_ledger_is_away(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    away = planned(world, {"RECONCILE_STATE_URL": "postgresql://postgres@127.0.0.1:1/postgres"})
    report = planned(world, command="report", window="yesterday", **{"charge-by": "user_id"})
    clock.move_to(SINCE + timedelta(hours=27))
    Overdue(runner, SINCE).check([away, report])
    assert wire.kinds == ["overdue"]
    assert "No run has finished since `reconcile schedule` began at 2026-11-02T20:00:00Z." in wire.alerts[0].text
    off = planned(world, {"RECONCILE_ALERT_OVERDUE": "0s"})
    Overdue(runner, SINCE).check([off])
    assert len(wire.alerts) == 1


def test_a_clock_that_was_in_the_future_once_silences_nothing(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    todo = planned(world)
    clock.move_to("2026-11-03T01:31Z")
    assert runner.work(todo) is None
    world.execute(
        "UPDATE reconcile.schedule SET fired_to = '2027-11-03T01:30Z', window_to = '2027-11-03T01:15Z';"
        "INSERT INTO reconcile.runs SELECT (jsonb_populate_record(r, jsonb_build_object('run_id', 'x', 'started_at',"
        " '2027-11-03T01:30Z', 'finished_at', '2027-11-03T01:31Z', 'window_to', '2027-11-03T01:15Z'))).*"
        " FROM reconcile.runs AS r"
    )
    clock.move_to("2026-11-04T01:31Z")
    assert runner.work(todo) is None
    assert runner.work(todo) is None
    assert len(world.runs()) == 3  # one more, not one at every look
    fired_to, window_to = world.query("SELECT fired_to, window_to FROM reconcile.schedule")[0]
    assert fired_to == datetime(2026, 11, 4, 1, 30, tzinfo=UTC)
    assert window_to < datetime(2026, 11, 4, tzinfo=UTC)
    with Memory(todo.settings) as memory:
        found = memory.last_success(datetime(2026, 11, 4, 2, tzinfo=UTC))
    assert found is not None
    assert found[0] < datetime(2026, 11, 4, 2, tzinfo=UTC)
    # And an overdue run is still noticed, also by a process that began in the future.
    clock.move_to("2026-11-05T04:00Z")
    overdue = Overdue(runner, datetime(2027, 11, 3, tzinfo=UTC))
    overdue.check([todo])
    assert wire.kinds == []
    clock.move_to("2026-11-06T06:01Z")
    overdue.check([todo])
    assert wire.kinds == ["overdue"]


def test_an_alert_does_not_wait_for_the_report(
    world: World, runner: Runner, wire: Wire, clock: time_machine.Coordinates
) -> None:
    world.add_rows("2026-11-02T12:00Z")
    world.execute("UPDATE \"LiteLLM_SpendLogs\" SET team_id = 'team-without-subscription'")
    clock.move_to("2026-11-03T01:31Z")
    (world.folder / "taken").write_text("a file")
    assert runner.work(planned(world, report={"folder": str(world.folder / "taken")})) is None
    assert wire.kinds == ["discrepancies"]


def test_a_defect_outside_the_run_is_tried_again(
    world: World, runner: Runner, clock: time_machine.Coordinates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Memory, "recall", broken)
    clock.move_to("2026-11-03T01:31Z")
    with structlog.testing.capture_logs() as logs:
        assert runner.work(planned(world)) == RETRY_AFTER_FAULT
    assert "a defect of reconcile" in str(logs)
