"""cron.yaml: what is read, what is refused in which line, and that the shipped file and schema follow the code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from reconcile.errors import SettingsError
from reconcile.settings.alerting import Threshold
from reconcile.unattended.schedule import cron_file

ROOT = Path(__file__).parents[2]


def load(tmp_path: Path, text: str) -> cron_file.CronFile:
    path = tmp_path / "cron.yaml"
    path.write_text(text, encoding="utf-8")
    return cron_file.load(path)


def test_everything_that_a_job_can_say(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
timezone: Asia/Shanghai
jobs:
  weekly.1:
    cron: "0 6 * * mon"
    command: backfill
    window: last month
    dry-run: true
    charge-by: user_id
    event-code: other
    report: {folder: here, formats: [xlsx, csv], language: zh-CN}
    alerts: [missing, "held>5.00usd"]
  plain: {cron: "* * * * *", command: run, alerts: false}
""",
    )
    assert found.zone is not None
    assert found.zone.key == "Asia/Shanghai"
    job = found.jobs["weekly.1"]
    assert (job.command, job.window, job.dry_run, job.charge_by, job.event_code) == (
        "backfill",
        "last-month",
        True,
        "user_id",
        "other",
    )
    assert job.report is not None
    assert (job.report.folder, job.report.formats, job.report.language) == ("here", ["xlsx", "csv"], "zh-CN")
    assert [str(threshold) for threshold in job.thresholds or ()] == ["missing", "held>5.00usd"]
    plain = found.jobs["plain"]
    assert (plain.alerts, plain.thresholds, plain.report, plain.window) == (False, None, None, None)


def test_no_thresholds_of_its_own_are_none_at_all(tmp_path: Path) -> None:
    head = 'jobs:\n  a: {cron: "* * * * *", command: run, alerts: '
    assert load(tmp_path, head + "[]}").jobs["a"].thresholds == ()
    assert load(tmp_path, head + "true}").jobs["a"].thresholds is None
    assert load(tmp_path, head + "[orphan>10]}").jobs["a"].thresholds == (Threshold("orphan", 10, None),)


JOB = "jobs:\n  a:\n    cron: '15 2 * * *'\n    command: run\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("timezone: Berlin\n" + JOB, "1: timezone: 'Berlin' is not an IANA time zone"),
        (
            JOB.replace("15 2 *", "15 2"),
            "3: jobs.a.cron: has 4 fields; a cron line has five: minute hour day month weekday",
        ),
        (JOB.replace("15", "99"), "3: jobs.a.cron: "),
        (JOB.replace("2 * *", "2 30 2"), "3: jobs.a.cron: never fires"),
        (JOB.replace("2 * * *", "2 1 * 1"), "3: jobs.a.cron: names a day and a weekday; write two jobs, one for each"),
        (JOB.replace("2 * * *", "2 * * 8"), "3: jobs.a.cron: has a weekday that cannot be read: '8'; write 0 to 7"),
        (JOB.replace("2 * * *", "2 * * fri-tue"), "3: jobs.a.cron: has a weekday range that is empty: 'fri-tue'"),
        (JOB.replace("run", "rum"), "4: jobs.a.command: input should be 'run', 'backfill' or 'report'"),
        (JOB.replace("run", "report"), "2: jobs.a: window: is missing; `report` needs one of yesterday, last-week,"),
        (JOB + "    window: yesterday\n", "2: jobs.a: window: `run` has its own, RECONCILE_LOOKBACK"),
        (JOB.replace("run", "backfill") + "    window: tomorrow\n", "5: jobs.a.window: input should be 'yesterday'"),
        (
            JOB.replace("run", "report") + "    window: yesterday\n    dry-run: yes\n",
            "2: jobs.a: dry-run: a report sends",
        ),
        (JOB + "    color: red\n", "5: jobs.a.color: is not a key that is known here"),
        (JOB + "    dry_run: true\n", "5: jobs.a.dry_run: is not a key that is known here"),
        (
            JOB + "    report:\n      folder: x\n      formats:\n        - html\n        - pdf\n",
            "9: jobs.a.report.formats.1: input should be",
        ),
        (JOB + "    report: {formats: [html]}\n", "5: jobs.a.report.folder: is missing"),
        (JOB + "    alerts: [lost]\n", "5: jobs.a.alerts: 'lost' is none of excluded, "),
        (JOB + "    alerts: maybe\n", "5: jobs.a.alerts: input should be a valid"),
        (JOB + "    cron: '0 0 * * *'\n", "5: jobs.a.cron: stands here again, first in line 3"),
        (JOB + "  b c: 1\n", "5: jobs.b c: "),
        ("jobs: {}\n", "1: jobs: "),
        ("", "1: jobs: is missing"),
        ("- 1\n", "1: input should be"),
        ("jobs: [\n", "2: is not YAML: "),
        (JOB.replace("'15 2 * * *'", "* * * * *"), "3: is not YAML: "),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path / 'cron.yaml'}:{says}")
    assert refused.value.exit_code == 2


def test_every_mistake_has_a_line_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, "timezone: 1\n" + JOB.replace("15", "x") + "    color: red\n")
    assert len(str(refused.value).splitlines()) == 3


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot be read \(No such file"):
        cron_file.load(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"jobs: \xff\n")
    with pytest.raises(SettingsError, match=r"latin\.yaml: is not a text file in UTF-8"):
        cron_file.load(tmp_path / "latin.yaml")


def test_the_shipped_file_is_right_and_its_commented_job_too() -> None:
    text = (ROOT / "cron.yaml").read_text(encoding="utf-8")
    assert list(cron_file.load(ROOT / "cron.yaml").jobs) == ["nightly", "last-month"]
    head, _, example = text.partition("  # What else a job may say")
    uncommented = "\n".join("  " + line[4:] for line in example.splitlines()[2:])
    found = cron_file.CronFile.model_validate(yaml.safe_load(head + uncommented))
    assert list(found.jobs) == ["nightly", "last-month", "weekly-by-user"]


def test_the_schema_for_editors_follows_the_code() -> None:
    schema = json.loads((ROOT / "docs/cron.schema.json").read_text(encoding="utf-8"))
    made = cron_file.CronFile.model_json_schema()
    assert {name: value for name, value in schema.items() if name != "$schema"} == made
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((ROOT / "cron.yaml").read_text(encoding="utf-8")), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(JOB + "    color: red\n"), schema)


def test_print_shows_ten_firings_of_each_job_in_the_zone_and_in_utc(tmp_path: Path) -> None:
    (tmp_path / "cron.yaml").write_text(
        "timezone: Europe/Berlin\n" + JOB + "  b: {cron: '0 6 * * 1', command: backfill, window: yesterday}\n"
    )
    clocked = Path(__file__).with_name("clocked.py")
    arguments = [sys.executable, str(clocked), "2026-10-23T12:00Z", "schedule", "--print"]
    ran = subprocess.run(arguments, cwd=tmp_path, env={}, input="", capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert len(lines) == 22
    assert lines[0] == "a: run, 15 2 * * * (Europe/Berlin)"
    assert lines[1:4] == [
        "  Sat 2026-10-24 02:15 +0200  2026-10-24T00:15:00Z",
        "  Sun 2026-10-25 02:15 +0200  2026-10-25T00:15:00Z",
        "  Mon 2026-10-26 02:15 +0100  2026-10-26T01:15:00Z",
    ]
    assert lines[11:13] == [
        "b: backfill yesterday, 0 6 * * 1 (Europe/Berlin)",
        "  Mon 2026-10-26 06:00 +0100  2026-10-26T05:00:00Z",
    ]
