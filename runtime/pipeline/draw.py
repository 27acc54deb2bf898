"""Draw a schedule as text: a line for each rank, time from left to right, as in the papers."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from textwrap import fill
from typing import NamedTuple

from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.costs import UNIT, Costs
from ringlet.runtime.pipeline.price import Interval, PipelinePrice, price

MARKS = {"F": "", "B": "<", "I": "<", "W": "="}
CHUNKS = "abcdefghijklmnopqrstuvwxyz"


def draw_text(schedule: PipelineSchedule, costs: Costs = UNIT, width: int = 96) -> str:
    """The schedule at these costs; lines longer than `width` continue below."""
    priced = price(schedule, costs)
    scale = _scale(schedule, priced)
    columns = scale.at(priced.makespan)
    lines = [_line(schedule, intervals, columns, scale) for intervals in priced.intervals]
    names = [f"rank {rank}" for rank in range(schedule.ranks)]
    margin = len(names[-1]) + 2
    room = max(1, (width - margin) // scale.pitch) * scale.pitch
    drawn: list[str] = []
    for start in range(0, max(map(len, lines)), room):
        parts = (line[start : start + room] for line in lines)
        drawn += [
            f"{name:<{margin}}{part}".rstrip() for name, part in zip(names, parts, strict=True)
        ]
        drawn.append("")
    return "\n".join([*drawn, _legend(schedule)]) + "\n"


class _Scale(NamedTuple):
    """How time becomes columns."""

    columns: float
    """Per second."""

    pitch: int
    """Columns of the unit of time of which all actions are multiples; 2 if it is too short."""

    def at(self, time: float) -> int:
        return math.floor(time * self.columns + 0.5 + 1e-6)


def computed(intervals: Iterable[Interval]) -> Iterator[Interval]:
    """The intervals of F, B, I and W that take any time."""
    return (i for i in intervals if i.action.kind in MARKS and i.end > i.start)


def _line(
    schedule: PipelineSchedule, intervals: tuple[Interval, ...], columns: int, scale: _Scale
) -> str:
    """A rank's time: labels as long as what they stand for, dots where it is idle."""
    line = ""
    for action, start, end in computed(intervals):
        line += _dots(len(line), scale.at(start), scale.pitch)
        length = scale.at(end) - len(line)
        fill = "-" if length > scale.pitch else " "
        line += _label(schedule, action).ljust(length - 1, fill)[: length - 1] + " "
    return line + _dots(len(line), columns, scale.pitch)


def _dots(start: int, end: int, pitch: int) -> str:
    return "".join(" " if column % pitch else "." for column in range(start, end))


def _label(schedule: PipelineSchedule, action: Action) -> str:
    chunk = schedule.chunk_of(action.stage)
    letter = CHUNKS[chunk % len(CHUNKS)] if schedule.chunks > 1 else ""
    return f"{MARKS[action.kind]}{action.micro_batch}{letter}"


def _scale(schedule: PipelineSchedule, priced: PipelinePrice) -> _Scale:
    """Wide enough for every label and a blank after it.

    A unit of time is a whole number of columns, unless that would be much wider.
    """
    taken = {
        (len(_label(schedule, action)) + 1, end - start)
        for intervals in priced.intervals
        for action, start, end in computed(intervals)
    }
    if not taken:
        return _Scale(1.0, 2)
    shortest = min(seconds for _, seconds in taken)
    ratios = [Fraction(seconds / shortest).limit_denominator(100) for _, seconds in taken]
    least = max(length / seconds for length, seconds in taken)
    below = math.lcm(*(ratio.denominator for ratio in ratios))
    common = Fraction(math.gcd(*(int(ratio * below) for ratio in ratios)), below)
    unit = float(common) * shortest  # the longest time of which all are multiples
    pitch = math.ceil(least * unit - 1e-6)
    if pitch > 2 * least * unit:
        return _Scale(least, 2)
    return _Scale(pitch / unit, max(2, pitch))


def _legend(schedule: PipelineSchedule) -> str:
    example = "2a" if schedule.chunks > 1 else "2"
    words = [f"{example}: forward of micro-batch 2", f"<{example}: backward"]
    if schedule.splits:
        words[1] += " to the inputs"
        words.append(f"={example}: to the weights")
    if schedule.chunks > 1:
        words.append(f"a to {CHUNKS[min(schedule.chunks, len(CHUNKS)) - 1]}: chunks")
    return fill(", ".join([*words, "dots: idle."]), 96)
