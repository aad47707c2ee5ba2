"""Where the marks of the page's charts go. The template draws them as inline SVG.

Drawn by hand rather than by a plotting library: the marks take the page's colours (dark mode, print), its fonts and its
language, weigh little, and are the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final

from reconcile.domain.document import Document, Group
from reconcile.report import figures
from reconcile.report.figures import OUTCOMES, Step

WIDTH: Final = 1_000  # of a waterfall bar and of an outcome bar, in the units of its own viewBox
_TORN: Final = 40  # what is left of a full bar's part that a raised axis cuts away
_RAISE_BELOW: Final = Decimal("0.3")  # the axis is raised where the steps span less of the largest level than this
_SLIVER: Final = 3.0  # no mark is thinner: small money must be seen

DAYS_IN_CHART: Final = 366
DAYS_IN_HEAT: Final = 92
IDS_IN_HEAT: Final = 40

PLOT_HEIGHT: Final = 200
PLOT_TOP: Final = 12
PLOT_LEFT: Final = 64
_PLOT_MIN_WIDTH: Final = 860

CELL_WIDTH: Final = 24
CELL_HEIGHT: Final = 22
HEAT_LEFT: Final = 190
HEAT_TOP: Final = 28
_SHADES: Final = (Decimal("0.02"), Decimal("0.08"), Decimal("0.25"), Decimal("0.6"))


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar of the waterfall, in units of `WIDTH`; `level` is where the connector to the next one stands."""

    step: Step
    x: str
    width: str
    level: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """`low` is the amount at the left edge: above 0 the axis is raised and full bars are drawn torn."""

    bars: tuple[Bar, ...]
    low: Decimal


def waterfall(steps: Sequence[Step]) -> Waterfall:
    levels = [level for step in steps for level in (step.before, step.after) if step.name not in ("litellm", "lago")]
    levels += [steps[0].after, steps[-1].after]
    high, lowest = max(levels), min(levels)
    span = high - lowest
    low = Decimal(0) if lowest <= 0 or span >= high * _RAISE_BELOW else max(Decimal(0), lowest - span / 2)
    if not span:
        low = Decimal(0)
    base = low or min(lowest, Decimal(0))
    left = _TORN if low else 0

    def position(level: Decimal) -> float:
        return left + (WIDTH - left) * _share(level - base, high - base)

    bars = []
    for step in steps:
        full = step.name in ("litellm", "lago")
        start = position(base if low else Decimal(0)) if full else position(step.before)
        if full and low:
            start = 0.0
        end = position(step.after)
        width = max(abs(end - start), _SLIVER)
        x = min(min(start, end), WIDTH - width)
        bars.append(Bar(step, _number(x), _number(width), _number(end)))
    return Waterfall(tuple(bars), low)


@dataclass(frozen=True, slots=True)
class Segment:
    outcome: str
    x: str
    width: str


def outcome_bar(group: figures.Sides) -> tuple[Segment, ...]:
    """One line's outcomes as shares of its own spend, side by side, in units of `WIDTH`."""
    total = group.row("total").spend
    segments = []
    x = 0.0
    for name in OUTCOMES:
        width = WIDTH * _share(group.outcome(name), total)
        if width:
            segments.append(Segment(name, _number(x), _number(width)))
            x += width
    return tuple(segments)


@dataclass(frozen=True, slots=True)
class Block:
    outcome: str
    y: str
    height: str


@dataclass(frozen=True, slots=True)
class DayColumn:
    day: date
    group: figures.Sides
    x: str
    width: str
    middle: str
    blocks: tuple[Block, ...]
    labelled: bool


@dataclass(frozen=True, slots=True)
class Tick:
    y: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class DayChart:
    columns: tuple[DayColumn, ...]
    ticks: tuple[Tick, ...]
    width: int
    height: int
    cut: bool  # whether earlier days were left out


def days(document: Document) -> DayChart:
    """LiteLLM's spend by day, stacked by outcome; days without requests leave a gap."""
    all_groups = {group.day: figures.sides(group) for group in document.by_day if group.day is not None}
    shown = _calendar(list(all_groups), DAYS_IN_CHART)
    empty = figures.combined(())
    top = max((all_groups[day].row("total").spend for day in shown if day in all_groups), default=Decimal(0))
    step, count = _ticks(top)
    ceiling = step * count
    room = max(_PLOT_MIN_WIDTH - PLOT_LEFT, 10 * len(shown))
    slot = room / max(len(shown), 1)
    bar = min(slot * 0.72, 44)
    every = max(1, round(len(shown) / (room / 62)))
    columns = []
    for number, day in enumerate(shown):
        of = all_groups.get(day, empty)
        middle = PLOT_LEFT + slot * (number + 0.5)
        columns.append(
            DayColumn(
                day,
                of,
                _number(middle - bar / 2),
                _number(bar),
                _number(middle),
                tuple(_blocks(of, ceiling)),
                number % every == 0,
            )
        )
    ticks = tuple(
        Tick(_number(PLOT_TOP + PLOT_HEIGHT * (1 - number / count)), step * number) for number in range(count + 1)
    )
    return DayChart(
        tuple(columns),
        ticks,
        PLOT_LEFT + int(room) + 8,
        PLOT_TOP + PLOT_HEIGHT + 26,
        len(shown) < _span(all_groups),
    )


def _blocks(of: figures.Sides, ceiling: Decimal) -> list[Block]:
    blocks = []
    y = float(PLOT_TOP + PLOT_HEIGHT)
    for name in OUTCOMES:
        amount = of.outcome(name)
        if amount > 0:
            height = max(PLOT_HEIGHT * _share(amount, ceiling), 1.5)
            y -= height
            blocks.append(Block(name, _number(y), _number(height)))
    return blocks


@dataclass(frozen=True, slots=True)
class HeatCell:
    group: Group
    amount: Decimal
    x: int
    y: int
    shade: int  # 1 (least) to 5


@dataclass(frozen=True, slots=True)
class HeatLine:
    charge_id: str | None
    y: int


@dataclass(frozen=True, slots=True)
class HeatMap:
    lines: tuple[HeatLine, ...]
    days: tuple[tuple[date, int], ...]
    cells: tuple[HeatCell, ...]
    bounds: tuple[Decimal, ...]  # the most money of each shade
    width: int
    height: int
    cut: bool  # whether charge IDs or days were left out


def heat(document: Document) -> HeatMap:
    """Money that does not agree, by charge ID and day: the charge IDs with most of it, over the last days."""
    found = [
        (group, figures.sides(group).open)
        for group in document.by_charge_id_and_day
        if group.day is not None and figures.sides(group).open_count
    ]
    all_days = [group.day for group in document.by_day if group.day is not None]
    shown = _calendar(all_days, DAYS_IN_HEAT)
    at = {day: HEAT_LEFT + number * CELL_WIDTH for number, day in enumerate(shown)}
    found = [(group, amount) for group, amount in found if group.day in at]
    sums: dict[str | None, Decimal] = {}
    for group, amount in found:
        sums[group.charge_id] = sums.get(group.charge_id, Decimal(0)) + amount
    ranked = sorted(sums, key=lambda charge_id: (sums[charge_id].copy_negate(), charge_id is None, charge_id or ""))
    lines = {charge_id: HEAT_TOP + n * CELL_HEIGHT for n, charge_id in enumerate(ranked[:IDS_IN_HEAT])}
    most = max((amount for _, amount in found), default=Decimal(0))
    bounds = (*(most * share for share in _SHADES), most)
    cells = sorted(
        (
            HeatCell(group, amount, at[group.day], lines[group.charge_id], _shade(amount, bounds))
            for group, amount in found
            if group.day is not None and group.charge_id in lines
        ),
        key=lambda cell: (cell.y, cell.x),
    )
    return HeatMap(
        tuple(HeatLine(charge_id, y) for charge_id, y in lines.items()),
        tuple(at.items()),
        tuple(cells),
        bounds,
        HEAT_LEFT + len(shown) * CELL_WIDTH + 4,
        HEAT_TOP + len(lines) * CELL_HEIGHT + 4,
        len(ranked) > len(lines) or len(shown) < _span(dict.fromkeys(all_days)),
    )


def _shade(amount: Decimal, bounds: Sequence[Decimal]) -> int:
    return next((number for number, bound in enumerate(bounds, 1) if amount <= bound), len(bounds))


def _calendar(found: Sequence[date], limit: int) -> list[date]:
    """Every day from the first to the last, gaps included; at most the last `limit`."""
    if not found:
        return []
    last = max(found)
    first = max(min(found), last - timedelta(days=limit - 1))
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _span(found: dict[date, object] | dict[date, figures.Sides]) -> int:
    return (max(found) - min(found)).days + 1 if found else 0


def _ticks(top: Decimal) -> tuple[Decimal, int]:
    """Step and number of the axis' ticks: three to five steps of 1, 2 or 5 times a power of ten that reach `top`."""
    if top <= 0:
        return Decimal(1), 1
    power = Decimal(1).scaleb(top.adjusted() - 1)
    for factor in (2, 5, 10, 20, 50):
        step = power * factor
        count = int((top / step).to_integral_value(ROUND_CEILING))
        if count <= 5:
            return step, count
    raise AssertionError("a step of 50 tenths always reaches the top")


def _share(part: Decimal, whole: Decimal) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _number(value: float) -> str:
    """A coordinate with one decimal, without a trailing zero: short, and the same on every machine."""
    text = f"{value:.1f}"
    return text.removesuffix(".0")
