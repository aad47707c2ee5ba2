"""The files of a report: their names, their wholeness, and the same bytes for the same document."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from reconcile.domain.document import Document
from reconcile.errors import BooksFault, OutputFault, UsageError
from reconcile.report import FORMATS, paths, sheets, write
from report import factory
from report.factory import Row

STEM = "reconcile-2026-11-01T00-00-00Z-2026-11-02T00-00-00Z"


def later(document: Document) -> Document:
    """The same state reported again: another run, at another time, at another speed."""
    method = replace(
        document.method,
        started_at=datetime(2027, 1, 1, tzinfo=UTC),
        finished_at=datetime(2027, 1, 1, 0, 5, tzinfo=UTC),
        stage_seconds={"read": 99.0},
        requests=7,
        retries=0,
    )
    return replace(document, run_id="2027-01-01T00-00-00Z-ffff", method=method)


def test_files_are_named_by_the_window_alone(tmp_path: Path) -> None:
    written = write(factory.hostile(), tmp_path / "new" / "folder", FORMATS, "en")
    names = [path.name for path in written]
    assert names[:2] == [f"{STEM}.html", f"{STEM}.xlsx"]
    assert names[-1] == f"{STEM}.json"
    assert names[2:-1] == [f"{STEM}.{table}.csv" for table in sheets.TABLES]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())


def test_milliseconds_of_the_window_are_in_the_name(tmp_path: Path) -> None:
    document = factory.document(window_from=factory.FROM + timedelta(milliseconds=5))
    assert write(document, tmp_path, ["json"], "en")[0].name.startswith("reconcile-2026-11-01T00-00-00-005Z-")


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="html, xlsx, csv, json"):
        write(factory.document(), tmp_path, ["json", "pdf"], "en")
    assert list(tmp_path.iterdir()) == []


def test_a_document_that_does_not_add_up_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BooksFault):
        write(replace(factory.document([Row("matched")]), by_model=()), tmp_path, ["json"], "en")
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write(factory.document(), tmp_path, ["json"], "en")
    before = path.read_bytes()

    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OutputFault, match="cannot be written: No space"):
        write(factory.typical("UTC"), tmp_path, ["json"], "en")
    with pytest.raises(OutputFault, match="cannot be written: No space"):
        write(factory.document([Row("matched")]), tmp_path, ["json"], "en")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_files_are_their_owner_s_alone_in_a_folder_of_its_own(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        written = write(factory.document(), tmp_path / "new" / "folder", FORMATS, "en")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "new/folder")] == [0o700, 0o700]


def test_a_folder_that_is_there_keeps_its_mode_and_a_file_gets_the_owner_s(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / f"{STEM}.json").write_text("readable by all")
    (tmp_path / f"{STEM}.json").chmod(0o644)
    (path,) = write(factory.document(), tmp_path, ["json"], "en")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_no_link_that_lies_there_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, victim = tmp_path / "reports", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    (folder / f"{STEM}.json").symlink_to(victim)
    (folder / f".{STEM}.json.{os.getpid()}.part").symlink_to(victim)
    (path,) = write(factory.document(), folder, ["json"], "en")
    assert victim.read_text() == "precious"
    assert not path.is_symlink()
    assert orjson.loads(path.read_bytes())["status"] == "agreed"
    # Also where the name of the temporary file could be foreseen.
    monkeypatch.setattr(secrets, "token_hex", lambda length: "0" * 2 * length)
    (folder / f".{STEM}.json.{'0' * 16}.part").symlink_to(victim)
    with pytest.raises(OutputFault, match="File exists"):
        write(factory.document(), folder, ["json"], "en")
    assert victim.read_text() == "precious"


def test_the_paths_are_those_that_are_written(tmp_path: Path) -> None:
    assert paths(factory.typical(), tmp_path, FORMATS) == write(factory.typical(), tmp_path, FORMATS, "en")


def test_json_is_the_document_with_all_discrepancies(tmp_path: Path) -> None:
    document = factory.large(discrepancies=1_500, charge_ids=3)
    (path,) = write(document, tmp_path, ["json"], "zh-CN")
    found = orjson.loads(path.read_bytes())
    assert found == orjson.loads(orjson.dumps(document.as_json(whole=True)))
    assert len(found["discrepancies"]) == found["discrepancies_total"] == 1_500


def test_amounts_at_the_ends_of_a_double_are_reported(tmp_path: Path) -> None:
    rows = [Row("missing", "1.7976931348623157e308"), Row("missing", "1.7e308"), Row("matched", "5e-324")]
    written = write(factory.document(rows), tmp_path, FORMATS, "en")
    assert "3.50E308" in written[0].read_text(encoding="utf-8")
    assert orjson.loads(written[-1].read_bytes())["rows"]["matched"]["spend"] == "0." + "0" * 323 + "5"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_a_fresh_process_elsewhere_writes_the_same_bytes(tmp_path: Path) -> None:
    write(factory.typical(), tmp_path / "here", FORMATS, "zh-CN")
    program = (
        "import sys; from pathlib import Path; from report import factory; from reconcile.report import *;"
        "write(factory.typical(), Path(sys.argv[1]), ('html', 'xlsx', 'csv', 'json'), 'zh-CN')"
    )
    environment = {
        **os.environ,
        "TZ": "America/Santiago",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], env=environment, check=True)
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


def test_when_it_was_made_stands_in_one_place(tmp_path: Path) -> None:
    document = factory.typical()
    first = write(document, tmp_path / "1", FORMATS, "en")
    second = write(later(document), tmp_path / "2", FORMATS, "en")
    for one, other in zip(first, second, strict=True):
        if one.suffix == ".html":
            before, made, after = cut(one)
            assert (before, after) == cut(other)[::2]
            assert made != cut(other)[1]
        elif one.suffix == ".xlsx":
            assert changed_parts(one, other) == ["xl/worksheets/sheet6.xml"]
        elif one.suffix == ".csv":
            assert (one.read_bytes() == other.read_bytes()) == (not one.name.endswith(".method.csv"))
        else:
            left, right = orjson.loads(one.read_bytes()), orjson.loads(other.read_bytes())
            assert {key for key in left if left[key] != right[key]} == {"run_id", "method"}


def cut(path: Path) -> tuple[str, str, str]:
    """The page before, in and after the section that says when it was made."""
    before, rest = path.read_text(encoding="utf-8").split('<section id="made">')
    made, after = rest.split("</section>", 1)
    return before, made, after


def changed_parts(one: Path, other: Path) -> list[str]:
    with zipfile.ZipFile(one) as left, zipfile.ZipFile(other) as right:
        assert left.namelist() == right.namelist()
        return [name for name in left.namelist() if left.read(name) != right.read(name)]
