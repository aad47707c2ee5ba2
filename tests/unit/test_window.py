"""Windows: what `--from` and `--to` mean in every zone, and how a window is cut."""

# ruff: noqa: DTZ001  # naive local times are what is tested

from __future__ import annotations

import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconcile.domain.dates import day_start, local_day, local_days
from reconcile.domain.window import (
    RelativeName,
    Window,
    cut,
    lookback_window,
    month_window,
    parse_range,
    relative_window,
)
from reconcile.errors import UsageError

unhurried = settings(deadline=None)  # no test depends on how fast the machine is

DAY = timedelta(days=1)
MILLISECOND = timedelta(milliseconds=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(start: str, end: str) -> Window:
    return Window(utc(start), utc(end))


zones = st.sampled_from(sorted(available_timezones() - {"localtime"})).map(ZoneInfo)
dates = st.dates(date(1970, 1, 2), date(2198, 12, 30))
instants = st.datetimes(datetime(1971, 1, 1), datetime(2198, 1, 1), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
windows = st.tuples(instants, st.timedeltas(MILLISECOND, timedelta(days=90))).map(
    lambda pair: Window(pair[0], pair[0] + pair[1] // MILLISECOND * MILLISECOND)
)

# Where a clock change meets a midnight: zone, day, the day's window.
ODD_DAYS = [
    ("America/Santiago", "2026-09-06", "2026-09-06T04:00", "2026-09-07T03:00"),  # begins at 01:00
    ("America/Santiago", "2026-09-05", "2026-09-05T04:00", "2026-09-06T04:00"),
    ("America/Santiago", "2026-04-04", "2026-04-04T03:00", "2026-04-05T04:00"),  # 23:00 to midnight twice
    ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00", "2018-11-05T02:00"),  # begins at 01:00
    ("Asia/Beirut", "2022-03-27", "2022-03-26T22:00", "2022-03-27T21:00"),  # begins at 01:00
    ("America/Havana", "2025-11-02", "2025-11-02T04:00", "2025-11-03T05:00"),  # midnight to 01:00 twice
    ("America/St_Johns", "2010-11-06", "2010-11-06T02:30", "2010-11-07T02:30"),  # 00:01 back to 23:01
    ("America/St_Johns", "2010-11-07", "2010-11-07T02:30", "2010-11-08T03:30"),
    ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00", "2026-03-29T22:00"),
    ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00", "2026-10-25T23:00"),
    ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00", "2026-04-05T13:30"),
    ("Asia/Kolkata", "2026-11-20", "2026-11-19T18:30", "2026-11-20T18:30"),
    ("Pacific/Apia", "2011-12-29", "2011-12-29T10:00", "2011-12-30T10:00"),  # the 30th does not exist
    ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00", "2011-12-31T10:00"),
]


@pytest.mark.parametrize(("zone", "day", "start", "end"), ODD_DAYS)
def test_a_day_lasts_from_its_first_existing_instant_to_the_next_day_s(
    zone: str, day: str, start: str, end: str
) -> None:
    assert parse_range(day, day, ZoneInfo(zone)) == window(start, end)


@unhurried
@given(zones, dates, st.integers(1, 40))
@example(ZoneInfo("Pacific/Apia"), date(2011, 12, 20), 20)
@example(ZoneInfo("Pacific/Kwajalein"), date(1993, 8, 10), 20)
@example(ZoneInfo("America/St_Johns"), date(2010, 10, 30), 20)
def test_the_windows_of_consecutive_days_cover_their_range_exactly_once(
    zone: ZoneInfo, first: date, count: int
) -> None:
    days = [first + i * DAY for i in range(count)]
    existing = [day for day in days if day_start(day, zone) < day_start(day + DAY, zone)]
    assert len(days) - len(existing) <= 1
    if not existing:
        return
    each = [parse_range(str(day), str(day), zone) for day in existing]
    together = parse_range(str(existing[0]), str(existing[-1]), zone)
    assert each[0].start == together.start
    assert each[-1].end == together.end
    assert all(earlier.end == later.start for earlier, later in pairwise(each))
    for day, its_window in zip(existing, each, strict=True):
        assert its_window.start.astimezone(zone).date() == day
        assert (its_window.start - MILLISECOND).astimezone(zone).date() < day
        assert local_day(its_window.start, zone) == day
        assert local_day(its_window.end - MILLISECOND, zone) == day


@unhurried
@given(zones, instants)
@example(ZoneInfo("America/St_Johns"), utc("2010-11-07T02:45"))
@example(ZoneInfo("America/Havana"), utc("2025-11-02T05:30"))
def test_an_instant_lies_in_the_window_of_its_day(zone: ZoneInfo, instant: datetime) -> None:
    day = str(local_day(instant, zone))
    its_window = parse_range(day, day, zone)
    assert its_window.start <= instant < its_window.end


@unhurried
@given(zones, instants, st.lists(st.integers(0, 10**10), max_size=20), st.sampled_from(["ms", "us", "ns"]))
@example(ZoneInfo("America/St_Johns"), utc("2010-11-07T02:45"), [0, 86_400_000, 0, 3_600_000], "ms")
@example(ZoneInfo("Pacific/Apia"), utc("2011-12-30T09:59:59.999"), [1, 0], "ms")
def test_local_days_is_local_day_of_many(zone: ZoneInfo, first: datetime, milliseconds: list[int], unit: str) -> None:
    moments = [first + offset * MILLISECOND for offset in milliseconds]
    series = pd.Series(moments, dtype=f"datetime64[{unit}, UTC]", index=range(5, 5 + len(moments)))
    for times in (series, pd.DatetimeIndex(series)):
        days = local_days(times, zone)
        assert days.dtype == "datetime64[s]"
        assert [day.date() for day in days] == [local_day(moment, zone) for moment in moments]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00"),
        ("2026-11-20t10:00:00z", "2026-11-20T10:00"),
        (" 2026-11-20 10:00 ", "2026-11-20T09:00"),
        ("2026-11-20T10:00", "2026-11-20T09:00"),
        ("2026-07-20T10:00:59", "2026-07-20T08:00:59"),
        ("2026-11-20T10:00:00.5", "2026-11-20T09:00:00.500"),
        ("2026-11-20T10:00:00,123", "2026-11-20T09:00:00.123"),
        ("2026-11-20T10:00:00.123000Z", "2026-11-20T10:00:00.123"),
        ("2026-11-20T10:00:00+05:30", "2026-11-20T04:30"),
        ("2026-11-20T10:00:00-0330", "2026-11-20T13:30"),
        ("2026-11-20T10:00:00+08", "2026-11-20T02:00"),
        ("2026-10-25T02:30:00+01:00", "2026-10-25T01:30"),
        ("2026-10-25T02:30:00+02:00", "2026-10-25T00:30"),
    ],
)
def test_a_date_time_is_an_exact_instant(text: str, instant: str) -> None:
    assert parse_range(text, "2027-01-01", ZoneInfo("Europe/Berlin")).start == utc(instant)
    assert parse_range("2026-01-01", text, ZoneInfo("Europe/Berlin")).end == utc(instant)


def test_the_two_forms_may_be_mixed() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert parse_range("2026-11-20", "2026-11-20T12:00", berlin) == window("2026-11-19T23:00", "2026-11-20T11:00")
    assert parse_range("2026-11-20T12:00Z", "2026-11-20", berlin) == window("2026-11-20T12:00", "2026-11-20T23:00")


SKIPPED = "2026-03-29T02:30:00+01:00 (2026-03-29T01:30:00Z) or 2026-03-29T02:30:00+02:00 (2026-03-29T00:30:00Z)"
REPEATED = "2026-10-25T02:30:00+02:00 (2026-10-25T00:30:00Z) or 2026-10-25T02:30:00+01:00 (2026-10-25T01:30:00Z)"


@pytest.mark.parametrize(
    ("text", "zone", "says"),
    [
        ("2026-02-30", "UTC", "2026-02-30: there is no such date"),
        ("2026-13-01T00:00", "UTC", "there is no such date"),
        ("0000-01-01", "UTC", "there is no such date"),
        ("0202-01-01", "UTC", "the year lies outside 1970 to 2199"),
        ("2200-01-01T00:00Z", "UTC", "the year lies outside 1970 to 2199"),
        ("2026-W01-1", "UTC", "'2026-W01-1' is neither a date nor a date-time"),
        ("20261120", "UTC", "neither a date nor a date-time"),
        ("2026-11", "UTC", "neither a date nor a date-time"),
        ("yesterday", "UTC", "neither a date nor a date-time"),
        ("", "UTC", "neither a date nor a date-time"),
        ("2026-11-20T10", "UTC", "neither a date nor a date-time"),
        ("2026-11-20  10:00", "UTC", "neither a date nor a date-time"),
        ("٢٠٢٦-11-20", "UTC", "neither a date nor a date-time"),
        ("2026-11-20T24:00", "UTC", "for midnight write 00:00 of the next day"),
        ("2026-11-20T10:60", "UTC", "there is no such time"),
        ("2026-11-20T23:59:60", "UTC", "there is no such time"),
        ("2026-11-20T10:00+24:00", "UTC", "there is no such time"),
        ("2026-11-20T10:00+01:60", "UTC", "there is no such time"),
        ("2026-11-20T10:00:00.0001", "UTC", "write at most three decimals"),
        ("2011-12-30", "Pacific/Apia", "there was no such day in Pacific/Apia"),
        (
            "2026-03-29T02:30",
            "Europe/Berlin",
            f"does not exist in Europe/Berlin, where the clocks change; write {SKIPPED}",
        ),
        (
            "2026-10-25T02:30",
            "Europe/Berlin",
            f"occurs twice in Europe/Berlin, where the clocks change; write {REPEATED}",
        ),
        ("2026-09-06T00:00", "America/Santiago", "does not exist in America/Santiago"),
        ("2011-12-30T12:00", "Pacific/Apia", "does not exist in Pacific/Apia"),
    ],
)
def test_what_no_instant_answers_to_is_refused_in_one_line(text: str, zone: str, says: str) -> None:
    for option, arguments in (("--from", (text, "2027-01-01")), ("--to", ("2001-01-01", text))):
        with pytest.raises(UsageError) as refused:
            parse_range(*arguments, ZoneInfo(zone))
        message = str(refused.value)
        assert message.startswith(f"{option} ")
        assert says in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("from_text", "to_text"),
    [
        ("2026-11-21", "2026-11-20"),
        ("2026-11-22", "2026-11-20"),
        ("2026-11-20T10:00", "2026-11-20T10:00"),
        ("2026-11-20T10:00+01:00", "2026-11-20T09:00Z"),
        ("2026-11-20T10:00", "2026-11-20T09:59:59.999"),
        ("2026-11-21T00:00", "2026-11-20"),
        ("2026-11-20", "2026-11-20T00:00"),
    ],
)
def test_an_empty_or_inverted_range_is_refused(from_text: str, to_text: str) -> None:
    with pytest.raises(UsageError, match=rf"^the range is empty: --from {from_text[:4]}.*Z, and --to .*Z$"):
        parse_range(from_text, to_text, UTC)


@unhurried
@given(zones, st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 30)))
@example(ZoneInfo("Europe/Berlin"), datetime(2026, 10, 25, 2, 30))
@example(ZoneInfo("Europe/Berlin"), datetime(2026, 3, 29, 2, 30))
@example(ZoneInfo("Europe/Dublin"), datetime(2026, 10, 25, 1, 30))
@example(ZoneInfo("Pacific/Apia"), datetime(2011, 12, 30, 12))
def test_a_local_time_is_taken_exactly_when_one_instant_shows_it(zone: ZoneInfo, local: datetime) -> None:
    local = local.replace(microsecond=local.microsecond // 1000 * 1000)
    # Every offset that the zone has nearby, tried on its own: an oracle without `fold`.
    noon = local.replace(tzinfo=UTC)
    offsets = {(noon + i * timedelta(hours=6)).astimezone(zone).utcoffset() for i in range(-12, 13)}
    read = {local.replace(tzinfo=timezone(offset)).astimezone(UTC) for offset in offsets if offset is not None}
    showing = {instant for instant in read if instant.astimezone(zone).replace(tzinfo=None, fold=0) == local}
    text = local.isoformat(timespec="milliseconds")
    if len(showing) == 1:
        assert {parse_range(text, "2199-12-31", zone).start} == showing
    else:
        with pytest.raises(UsageError, match="occurs twice" if showing else "does not exist"):
            parse_range(text, "2199-12-31", zone)


def test_a_window_is_never_empty_and_always_utc() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    local = Window(datetime(2026, 11, 20, tzinfo=berlin), datetime(2026, 11, 21, tzinfo=berlin))
    assert local == window("2026-11-19T23:00", "2026-11-20T23:00")
    assert local.start.tzinfo is local.end.tzinfo is UTC
    assert str(local) == "[2026-11-19T23:00:00Z, 2026-11-20T23:00:00Z)"
    assert local.length == DAY
    assert pickle.loads(pickle.dumps(local)) == local
    for start, end in ((local.start, local.start), (local.end, local.start)):
        with pytest.raises(UsageError, match="the range is empty"):
            Window(start, end)
    with pytest.raises(AssertionError):
        Window(datetime(2026, 11, 20), utc("2026-11-21"))
    with pytest.raises(AssertionError):
        window("2026-11-20T00:00:00.000001", "2026-11-21")


def test_the_lookback_ends_before_the_lag_on_a_whole_millisecond() -> None:
    now = datetime(2026, 11, 20, 3, 15, 0, 123_999, tzinfo=timezone(timedelta(hours=1)))
    assert lookback_window(now, timedelta(minutes=15), timedelta(hours=72)) == window(
        "2026-11-17T02:00:00.123", "2026-11-20T02:00:00.123"
    )


@pytest.mark.parametrize(
    ("text", "zone", "start", "end"),
    [
        ("2026-10", "UTC", "2026-10-01T00:00", "2026-11-01T00:00"),
        (" 2024-02 ", "UTC", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("2026-12", "UTC", "2026-12-01T00:00", "2027-01-01T00:00"),
        # The clocks change within both.
        ("2026-10", "Europe/Berlin", "2026-09-30T22:00", "2026-10-31T23:00"),
        ("2026-03", "America/New_York", "2026-03-01T05:00", "2026-04-01T04:00"),
    ],
)
def test_a_month_is_whole_in_the_zone(text: str, zone: str, start: str, end: str) -> None:
    assert month_window(text, ZoneInfo(zone)) == window(start, end)


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "2026-1", "26-10", "1969-12", "2200-01", "2026-10-01", "october"]
)
def test_no_month(text: str) -> None:
    with pytest.raises(UsageError, match=r"--month .* is no month; write one such as 2026-10"):
        month_window(text, UTC)


@pytest.mark.parametrize(
    ("name", "now", "start", "end"),
    [
        ("yesterday", "2026-11-20T22:59", "2026-11-18T23:00", "2026-11-19T23:00"),
        ("yesterday", "2026-11-20T23:00", "2026-11-19T23:00", "2026-11-20T23:00"),  # the 21st in Berlin
        ("yesterday", "2026-03-30T01:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("last-week", "2026-11-20T10:00", "2026-11-08T23:00", "2026-11-15T23:00"),
        ("last-week", "2026-11-22T22:59", "2026-11-08T23:00", "2026-11-15T23:00"),  # Sunday
        ("last-week", "2026-11-22T23:00", "2026-11-15T23:00", "2026-11-22T23:00"),  # Monday in Berlin
        ("last-month", "2026-11-20T10:00", "2026-09-30T22:00", "2026-10-31T23:00"),
        ("last-month", "2026-01-01T10:00", "2025-11-30T23:00", "2025-12-31T23:00"),
        ("this-month", "2026-11-20T10:00", "2026-10-31T23:00", "2026-11-19T23:00"),
        ("this-month", "2026-11-02T10:00", "2026-10-31T23:00", "2026-11-01T23:00"),
    ],
)
def test_relative_windows_are_whole_days_of_the_zone(name: RelativeName, now: str, start: str, end: str) -> None:
    assert relative_window(name, utc(now), ZoneInfo("Europe/Berlin")) == window(start, end)


def test_this_month_is_refused_on_its_first_day() -> None:
    with pytest.raises(UsageError, match="this-month holds no day on 2026-11-01 in Europe/Berlin"):
        relative_window("this-month", utc("2026-10-31T23:00"), ZoneInfo("Europe/Berlin"))


LAG = timedelta(hours=2)


@pytest.mark.parametrize(
    ("end", "cut_to", "asked_to"),
    [
        ("2026-11-20T10:00", "2026-11-20T10:00", None),
        ("2026-11-20T12:00", "2026-11-20T12:00", None),  # to the millisecond
        ("2026-11-20T12:00:00.001", "2026-11-20T12:00", "2026-11-20T12:00:00.001"),
        ("2027-01-01T00:00", "2026-11-20T12:00", "2027-01-01T00:00"),
    ],
)
def test_a_window_is_cut_to_what_is_older_than_the_lag(end: str, cut_to: str, asked_to: str | None) -> None:
    now = utc("2026-11-20T14:00:00.000999")
    found, asked = cut(window("2026-11-19T00:00", end), now, LAG)
    assert found == window("2026-11-19T00:00", cut_to)
    assert asked == (None if asked_to is None else utc(asked_to))


@pytest.mark.parametrize("start", ["2026-11-20T12:00", "2026-11-20T13:00", "2026-12-01T00:00"])
def test_a_window_of_which_nothing_is_old_enough_is_refused(start: str) -> None:
    with pytest.raises(UsageError, match="RECONCILE_LAG"):
        cut(window(start, "2026-12-02T00:00"), utc("2026-11-20T14:00"), LAG)


@given(windows, instants, st.timedeltas(timedelta(), timedelta(days=30)))
def test_a_cut_window_never_passes_the_lag_and_loses_nothing_else(asked: Window, now: datetime, lag: timedelta) -> None:
    edge = now - lag
    if asked.start >= edge:
        return
    try:
        found, asked_to = cut(asked, now, lag)
    except UsageError:
        assert edge - asked.start < MILLISECOND
        return
    assert found.start == asked.start
    assert found.end <= edge
    assert (asked_to or found.end) == asked.end
    assert found.end == asked.end or edge - found.end < MILLISECOND
