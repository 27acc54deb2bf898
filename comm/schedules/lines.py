"""Lines over axes: a loss over steps, a speed over time."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ringlet.comm.arrays import Array
from ringlet.comm.schedules import svg

DASHES = ("", "7 3", "2 3", "10 3 2 3", "5 2 1 2 1 2", "14 4", "1 2", "8 2 2 2 2 2")
"""Lines differ also without colours."""

PARTS = 240
"""Of an axis, at most: of longer lines each part has its mean, and its lowest and highest."""

WIDTH, UP, LETTER = 380.0, (214.0, 44.0), 6.2
"""Pixels: of a picture, of the ends of its upward axis, and of a letter."""

LONGEST = 48
"""Letters of a name in a legend."""


class Line(NamedTuple):
    """Points by rising x; `dots` marks each of them."""

    name: str
    x: Sequence[float] | Array
    y: Sequence[float] | Array
    dots: bool = False


class Thin(NamedTuple):
    """What is drawn of a line: means, and what they are means of if that is several points."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


class Axis(NamedTuple):
    """Numbers from `low` to `high`, drawn between two pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, apart: float) -> list[float]:
        """Round numbers, at least so many pixels apart."""
        step = svg.round_step(apart * (self.high - self.low) / abs(self.stop - self.start))
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def thin(line: Line, low: float, high: float) -> Thin:
    """The line in at most PARTS equal parts of an axis from `low` to `high`; what is not finite is
    left out."""
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    if len(x) <= PARTS:
        return Thin(x.tolist(), y.tolist(), [], [])
    part = np.minimum((x - low) / (high - low) * PARTS, PARTS - 1).astype(int)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    counts = np.diff([*starts, len(x)])
    means = (np.add.reduceat(each, starts) / counts for each in (x, y))
    ends = (each.reduceat(y, starts) for each in (np.minimum, np.maximum))
    return Thin(*(each.tolist() for each in (*means, *ends)))


def draw_lines(title: str, lines: Sequence[Line], across: str, *, from_zero: bool = False) -> str:
    """A picture of the lines as the text of an SVG file; `across` says what x is."""
    parts, height = panel(title, lines, across, from_zero=from_zero)
    return svg.document(title, WIDTH, height, parts)


def panel(
    title: str,
    lines: Sequence[Line],
    across: str,
    *,
    from_zero: bool = False,
    target: float | None = None,
) -> tuple[list[str], float]:
    """The parts of a picture that is WIDTH wide, and its height. `target` is a level to reach."""
    thinned, low, high = _thinned(lines)
    levels = [y for one in thinned for y in (*one.mean, *one.low, *one.high)]
    levels += [] if target is None else [target]
    up = Axis(*_spread([*levels, *([0.0] if from_zero or not levels else [])]), *UP)
    words = [short(tick) for tick in up.ticks(34)]
    along = Axis(low, high, 14 + LETTER * max(map(len, words), default=1), WIDTH - 16)
    parts = [svg.text(14, 26, title, size=14, weight=600), *_axes(along, up, words, across)]
    if target is not None:
        wide = svg.number(along.stop - along.start)
        place = svg.point(along.start, up(target))
        parts.append(f'<path d="M{place}h{wide}" stroke="{svg.SOFT}" stroke-dasharray="4 3"/>')
    for number, (line, one) in enumerate(zip(lines, thinned, strict=True)):
        parts += _line(number, line.dots, one, along, up)
    legend, bottom = _legend(lines) if len(lines) > 1 else ([], UP[0] + 44)
    return [*parts, *legend], bottom


def _thinned(lines: Sequence[Line]) -> tuple[list[Thin], float, float]:
    """The lines, and the ends of their common axis."""
    ends = [float(end) for line in lines if len(line.x) for end in (np.min(line.x), np.max(line.x))]
    low, high = _spread(ends or [0.0])
    return [thin(line, low, high) for line in lines], low, high


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """From the lowest to the highest, with room where these are one."""
    low, high = min(values), max(values)
    if high > low:
        return low, high
    room = abs(high) * 0.1 or 1.0
    return low - room * (low != 0), high + room


def _axes(along: Axis, up: Axis, words: Sequence[str], across: str) -> Iterator[str]:
    for tick, word in zip(up.ticks(34), words, strict=True):
        y = up(tick)
        wide = svg.number(along.stop - along.start)
        yield f'<path d="M{svg.point(along.start, y)}h{wide}" stroke="{svg.FAINT}"/>'
        yield svg.text(along.start - 6, y + 4, word, size=11, fill=svg.SOFT, at="end")
    apart = 20 + LETTER * max(len(short(tick)) for tick in (along.low, along.high))
    for tick in along.ticks(max(50, apart)):
        x = along(tick)
        yield f'<path d="M{svg.point(x, up.start)}v5" stroke="{svg.SOFT}"/>'
        yield svg.text(x, up.start + 18, short(tick), size=11, fill=svg.SOFT, at="middle")
    yield svg.text(along.stop, up.start + 36, across, size=12, fill=svg.SOFT, at="end")


def _line(number: int, dots: bool, one: Thin, along: Axis, up: Axis) -> Iterator[str]:
    if not one.x:
        return
    places = [svg.point(along(x), up(y)) for x, y in zip(one.x, one.mean, strict=True)]
    if one.low:
        edge = [svg.point(along(x), up(y)) for x, y in zip(one.x, one.high, strict=True)]
        pairs = zip(reversed(one.x), reversed(one.low), strict=True)
        edge += [svg.point(along(x), up(y)) for x, y in pairs]
        colour = svg.colour(number)
        yield f'<path d="M{"L".join(edge)}z" fill="{colour}" fill-opacity="0.22"/>'
    yield stroke(f"M{'L'.join(places)}", number)
    if dots or len(places) == 1:
        rings = "".join(f"M{place}m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0" for place in places)
        yield f'<path d="{rings}" fill="{svg.PAPER}" stroke="{svg.colour(number)}"/>'


def _legend(lines: Sequence[Line]) -> tuple[list[str], float]:
    """The lines' names, in as many rows as they need, and where the last one ends."""
    parts, x, y = list[str](), 14.0, UP[0] + 58
    for number, line in enumerate(lines):
        name = line.name if len(line.name) <= LONGEST else f"\u2026{line.name[1 - LONGEST :]}"
        wide = 52 + LETTER * len(name)
        if x > 14 and x + wide > WIDTH:
            x, y = 14.0, y + 18
        parts.append(stroke(f"M{svg.point(x, y)}h26", number))
        parts.append(svg.text(x + 32, y + 4, name, size=12))
        x += wide
    return parts, y + 14


def stroke(path: str, number: int) -> str:
    """A path in the colour and the dashes of a line."""
    dash = DASHES[number % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<path d="{path}" fill="none" stroke="{svg.colour(number)}" stroke-width="1.8"{dashes}/>'
    )


def short(value: float) -> str:
    """1.5, 20k, 3M: as a tick is written."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * scale or (abs(value) >= scale and unit != "k"):
            return f"{value / scale:.6g}{unit}"
    return f"{value:.6g}"
