"""The job beside the least that is possible, and beside what people would write instead.

    python -m benchmarks                              # 100,000 rows a day: minutes on a laptop
    python -m benchmarks --rows 1000000 --json figures.json

Makes its data in a Postgres of its own, starts a Lago that costs nearly nothing (`benchmarks/lago.py`), and runs each
contender in a process of its own, on the same rows and the same Lago:

  floor  moves the same bytes and compares nothing      sdk  lago-agent-sdk, from PyPI into a temporary environment
  naive  a script of an afternoon                       job  this checkout's `reconcile`

  S1  every row is missing: push, at each --latency; the job reads back, the others do not (but for one floor)
  S2  a night: 99% of the events are there, sent live by LiteLLM's callback
  S3  the second night: the job has sent all itself, and nothing has changed since
  S4  `report`, over one day and over --days days of the same table

Figures are medians of --runs runs, where the first took less than a minute. `others`: cores that anything else on the
machine used meanwhile; above 0.2, run it again. It ends with 1 where Lago does not hold what it should.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import contenders, data
from benchmarks.measure import Measured, machine_cpu, measured, server_cpu
from reconcile.sandbox.litellm_schema import migrate
from reconcile.sandbox.postgres import SERVER_SETTINGS, create_database, postgres

HERE = Path(__file__).parents[1]
WHO = ("floor", "naive", "sdk", "job")
SCENARIOS = ("S1", "S2", "S3", "S4")
SDK = ("lago-agent-sdk==0.3.1", "psycopg[binary]>=3.2,<4")
MOST_PUSHED = 100_000  # rows of S1
LONG = 60.0  # seconds: so long a run is not repeated
# As an operator's server has it: what the ledger promises has to reach the disk.
DURABLE = {
    **SERVER_SETTINGS,
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "autovacuum": "off",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table: medians, but for `seconds_of_each`."""

    scenario: str
    who: str
    rows: int
    seconds: float
    cpu: float
    memory_mb: float
    lago_cpu: float
    postgres_cpu: float
    others: float
    requests: int
    most_in_flight: int
    sent: int
    seconds_of_each: list[float]
    wrong: str  # '' where Lago holds what it should

    @property
    def base(self) -> str:
        """The scenario without what is read back, by which it is compared with peers."""
        return self.scenario.removesuffix(", read back")


class Lago:
    """A running `benchmarks.lago`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def tell(self, command: str, **values: object) -> dict[str, Any]:
        """`load`, `keep`, `reset`, `latency` or `stats`; the counters."""
        query = urllib.parse.urlencode(values)
        with urllib.request.urlopen(f"{self.url}/_{command}?{query}", timeout=600) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


class Bench:
    def __init__(self, options: argparse.Namespace, folder: Path, server: str, lago: Lago, postmaster: int) -> None:
        self.options, self.folder, self.lago, self.postmaster = options, folder, lago, postmaster
        self.figures: list[Figure] = []
        days = options.days if "S4" in options.scenarios else 1
        self.database = create_database(server, "litellm")
        migrate(self.database)
        say(f"{days} days of {options.rows:,} rows")
        data.fill(self.database, options.rows, days, teams=options.teams, metadata=options.metadata)
        self.python = {"floor": sys.executable, "naive": sys.executable, "sdk": None}
        if "sdk" in options.contenders:
            self.python["sdk"] = environment_of_sdk(folder / "sdk")

    # --- the scenarios

    def s1(self) -> None:
        rows = min(self.options.rows, MOST_PUSHED)
        begin, end = instants(data.span_of(rows, self.options.rows))
        batches = self.folder / "all.batches"
        contenders.prepare(self.database, inside(begin, end), batches)
        self.lago.tell("load", file=self.live_events("none", "false"))
        for latency in self.options.latency:
            self.lago.tell("latency", seconds=latency / 1_000)
            name = f"S1 push {rows:,}, {latency:g} ms"
            for who in ("floor", "naive", "sdk"):
                more = ["--batches", str(batches)] if who == "floor" else []
                self.compare(name, who, rows, rows, self.other(who, begin, end, *more))
            read_back = self.other("floor", begin, end, "--batches", str(batches), "--read-back")
            self.compare(f"{name}, read back", "floor", rows, rows, read_back)
            self.compare(f"{name}, read back", "job", rows, rows, self.job("backfill", begin, end), self.forget)
        self.lago.tell("latency", seconds=0)

    def s2(self) -> None:
        begin, end = instants(timedelta(days=1))
        rows, lost = self.options.rows, data.count(self.database, f"{data.LOST} AND {inside(begin, end)}")
        batches = self.folder / "lost.batches"
        contenders.prepare(self.database, f"{data.LOST} AND {inside(begin, end)}", batches)
        self.lago.tell("load", file=self.live_events("found", f"NOT {data.LOST} AND {inside(begin, end)}"))
        name = f"S2 night of {rows:,}, {lost:,} missing"
        self.compare(name, "floor", rows, lost, self.other("floor", begin, end, "--batches", str(batches)))
        self.compare(name, "naive", rows, lost, self.other("naive", begin, end))
        self.compare(name, "sdk", rows, lost, self.other("sdk", begin, end))
        self.compare(name, "job", rows, lost, self.job("backfill", begin, end), self.forget)

    def s3(self) -> None:
        begin, end = instants(timedelta(days=1))
        rows, name = self.options.rows, f"S3 second night of {self.options.rows:,}"
        self.lago.tell("load", file=self.live_events("all", inside(begin, end)))
        self.compare(name, "floor", rows, 0, self.other("floor", begin, end))
        self.compare(name, "naive", rows, 0, self.other("naive", begin, end))
        if "job" in self.options.contenders:
            self.lago.tell("load", file=self.live_events("none", "false"))
            self.forget()
            first = self.job("backfill", begin, end)
            self.compare(f"S3 first night of {rows:,}, read back", "job", rows, rows, first, runs=1)
            self.lago.tell("keep")
            again = self.job("backfill", begin, end, "--skip-unchanged")
            self.compare(name, "job", rows, 0, again)

    def s4(self) -> None:
        self.lago.tell("load", file=self.live_events("every", "true"))
        for days in (1, self.options.days):
            begin, end = instants(timedelta(days=1), days - 1)
            rows, name = days * self.options.rows, f"S4 report of {days * self.options.rows:,}"
            self.compare(name, "floor", rows, 0, self.other("floor", begin, end))
            if days == 1:
                self.compare(name, "naive", rows, 0, self.other("naive", begin, end, "--dry"))
            self.compare(name, "job", rows, 0, self.job("report", begin, end), self.forget)

    # --- what they are made of

    def live_events(self, name: str, condition: str) -> Path:
        file = self.folder / f"{name}.events"
        if not file.exists():
            data.write_live_events(self.database, condition, file)
        return file

    def forget(self) -> None:
        """Loses the job's ledger."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS reconcile CASCADE")

    def other(self, who: str, begin: str, end: str, *more: str) -> Callable[[], Measured] | None:
        python = self.python[who]
        if python is None:
            return None
        asked = ["--database", self.database, "--lago", self.lago.url, "--begin", begin, "--end", end]
        command = [python, "-m", "benchmarks.contenders", who, *asked, *more]
        return lambda: measured(command, {**os.environ, "PYTHONPATH": str(HERE)}, self.options.limit)

    def job(self, command: str, begin: str, end: str, *more: str) -> Callable[[], Measured]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("LAGO_", "RECONCILE_"))}
        environment = {
            **kept,
            "DATABASE_URL": self.database,
            "LAGO_API_BASE": self.lago.url,
            "LAGO_API_KEY": "k",
            "LAGO_API_EVENT_CODE": data.CODE,
            "LAGO_API_CHARGE_BY": "team_id",
        }
        line = [sys.executable, "-m", "reconcile", command, "--from", f"{begin}Z", "--to", f"{end}Z", "--json", *more]
        return lambda: measured(line, environment, self.options.limit)

    def compare(
        self,
        scenario: str,
        who: str,
        rows: int,
        missing: int,
        once: Callable[[], Measured] | None,
        before: Callable[[], None] | None = None,
        *,
        runs: int | None = None,
    ) -> None:
        """Adds a line to the table. `missing`: how many events Lago has to have gained in the end."""
        if who not in self.options.contenders or once is None:
            return
        found: list[Figure] = []
        for _ in range(runs or self.options.runs):
            if before is not None:
                before()
            started = self.lago.tell("reset")
            machine, postgres_cpu, begin = machine_cpu(), server_cpu(self.postmaster), time.perf_counter()
            ran = once()
            ended, used = self.lago.tell("stats"), server_cpu(self.postmaster) - postgres_cpu
            lago_cpu, sent = ended["cpu"] - started["cpu"], ended["events"] - started["events"]
            busy = machine_cpu() - machine - ran.cpu - lago_cpu - used
            figure = Figure(
                scenario=scenario,
                who=who,
                rows=rows,
                seconds=ran.seconds,
                cpu=ran.cpu,
                memory_mb=ran.memory_mb,
                lago_cpu=lago_cpu,
                postgres_cpu=used,
                others=max(busy, 0.0) / (time.perf_counter() - begin),
                requests=ended["requests"],
                most_in_flight=ended["most_in_flight"],
                sent=sent,
                seconds_of_each=[],
                wrong=wrong(who, ran, sent, missing),
            )
            found.append(figure)
            say(f"{scenario}: {who} {ran.seconds:.2f} s {figure.wrong}")
            if figure.wrong or figure.seconds > LONG:
                break
        middle = sorted(found, key=lambda one: one.seconds)[(len(found) - 1) // 2]
        memory = statistics.median(one.memory_mb for one in found)
        each = [round(one.seconds, 3) for one in found]
        faults = next((one.wrong for one in found if one.wrong), "")
        self.figures.append(Figure(**{**asdict(middle), "memory_mb": memory, "seconds_of_each": each, "wrong": faults}))


def wrong(who: str, ran: Measured, sent: int, missing: int) -> str:
    """What is wrong with what a contender did, '' for nothing."""
    if ran.code == -9:
        return "took too long"
    if ran.code not in ((0, 1) if who == "job" else (0,)):
        return f"exit {ran.code}: {(ran.said.splitlines() or [''])[-1]}"
    if sent != missing:
        return f"sent {sent:,}, not {missing:,}"
    if who == "job" and missing and (ran.document or {}).get("verified") is not True:
        return "is not verified"
    return ""


def table(figures: list[Figure]) -> str:
    """As Markdown. `÷ floor`: how often the floor fits in; `× job`: how often the job fits into a peer's time."""
    heads = (
        *("scenario", "who", "s", "÷ floor", "× job", "CPU s", "MB", "rows/s", "Lago CPU s", "Postgres CPU s"),
        *("others", "requests", "in flight", ""),
    )
    lines = [f"| {' | '.join(heads)} |", f"|---|---|{'--:|' * 11}---|"]

    def of(one: Figure, who: str) -> Figure | None:
        alike = [other for other in figures if other.who == who and other.base == one.base]
        return next((other for other in alike if other.scenario == one.scenario), alike[0] if alike else None)

    for one in figures:
        floor, job = of(one, "floor"), of(one, "job")
        ratios = (
            f"{one.seconds / floor.seconds:.2f}" if floor and one.who != "floor" else "",
            f"{one.seconds / job.seconds:.2f}" if job and one.who in ("naive", "sdk") else "",
        )
        lines.append(
            f"| {one.scenario} | {one.who} | {one.seconds:.2f} | {ratios[0]} | {ratios[1]} | {one.cpu:.2f} | "
            f"{one.memory_mb:,.0f} | {one.rows / one.seconds:,.0f} | {one.lago_cpu:.2f} | {one.postgres_cpu:.2f} | "
            f"{one.others:.2f} | {one.requests:,} | {one.most_in_flight} | {one.wrong} |"
        )
    for who in WHO:
        reports = [one for one in figures if one.who == who and one.scenario.startswith("S4")]
        if len(reports) == 2:
            few, many = reports
            lines.append(
                f"\n{who}, {many.rows / few.rows:g} times the rows: {many.seconds / few.seconds:.1f} times the seconds "
                f"and {many.memory_mb / few.memory_mb:.2f} times the memory"
            )
    return "\n".join(lines)


def instants(length: timedelta, days_before: int = 0) -> tuple[str, str]:
    """Begin and end in UTC, without an offset: `length` of the last day, and so many days before it."""
    begin = data.LAST_DAY.astimezone(UTC).replace(tzinfo=None)
    return tuple(  # type: ignore[return-value]
        moment.isoformat(timespec="milliseconds") for moment in (begin - timedelta(days=days_before), begin + length)
    )


def inside(begin: str, end: str) -> str:
    """SQL: the row's usage time lies in [begin, end)."""
    return f""""endTime" >= '{begin}' AND "endTime" < '{end}'"""


def environment_of_sdk(folder: Path) -> str | None:
    """The Python of an environment with the SDK; None, with a word on stderr, where it cannot be had."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    ran = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *SDK, "numpy", "orjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        say(f"without the SDK, which cannot be installed: {(ran.stderr.splitlines() or [''])[-1]}")
        return None
    return str(python)


@contextmanager
def running_lago(teams: int) -> Iterator[Lago]:
    command = [sys.executable, "-m", "benchmarks.lago", "--subscriptions", str(teams)]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Lago(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def words(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        found = text.split(",")
        if unknown := {*found} - {*known}:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: none of {', '.join(known)}")
        return found

    return read


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("scenarios", nargs="*", choices=[*SCENARIOS, []], metavar="SCENARIO", help="which (default: all)")
    add("--rows", type=int, default=100_000, help="rows of a day (default 100,000)")
    add("--days", type=int, default=10, help="days of the longer report of S4 (default 10)")
    add("--latency", type=numbers, default=[0, 20], help="of Lago in S1, in ms (default 0,20)")
    add("--contenders", type=words(WHO), default=[*WHO], help=f"(default {','.join(WHO)})")
    add("--runs", type=int, default=3, help="runs of each (default 3)")
    add("--limit", type=float, default=900, help="seconds after which a run is ended (default 900)")
    add("--teams", type=int, default=200, help="charge IDs (default 200)")
    add("--metadata", type=int, default=800, help="bytes of metadata a row (default 800; real ones reach 9,000)")
    add("--folder", type=Path, help="for the data meanwhile: a million rows a day and ten days are 30 GB")
    add("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    options.scenarios = options.scenarios or [*SCENARIOS]
    return options


def main() -> int:
    options = parsed()
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="reconcile-benchmarks-", dir=options.folder)
        folder = Path(stack.enter_context(temporary))
        folder.chmod(0o755)  # Postgres runs as another user where this one is root
        server = stack.enter_context(postgres(folder / "postgres", DURABLE))
        postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        lago = stack.enter_context(running_lago(options.teams))
        bench = Bench(options, folder, server, lago, postmaster)
        for scenario in options.scenarios:
            {"S1": bench.s1, "S2": bench.s2, "S3": bench.s3, "S4": bench.s4}[scenario]()
            if options.json:
                options.json.write_text(json.dumps([asdict(one) for one in bench.figures], indent=1) + "\n")
        print(table(bench.figures))
        # The SDK bills a second time what is there: that is what it does, and no fault of the measurement.
        return int(any(one.wrong for one in bench.figures if one.who != "sdk"))


if __name__ == "__main__":
    sys.exit(main())
