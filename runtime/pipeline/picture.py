"""A pipeline schedule as a picture: time runs to the right, ranks stand below each other.

Forwards, backwards and backwards to the weights have a colour each, and chunks a shade of it.
The text of an SVG is built by hand: it depends on nothing, and is the same every time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ringlet.comm.schedules.svg import FAINT, FONT, INK, MARGIN, PALETTE, SOFT
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.draw import computed
from ringlet.runtime.pipeline.price import UNIT, Costs, Price, price
from ringlet.runtime.pipeline.prove import prove

COLOURS = {"F": PALETTE[0], "B": PALETTE[1], "I": PALETTE[1], "W": PALETTE[2]}
LABELS, PEAKS, TOP, ROW, GAP = 68, 96, 104, 38, 8
NARROWEST, WIDEST, BLOCK = 560.0, 1080.0, 26.0


@dataclass(frozen=True)
class _Layout:
    """Where everything stands, in pixels."""

    schedule: PipelineSchedule
    priced: Price

    @property
    def scale(self) -> float:
        """Pixels for each second: the shortest block is BLOCK wide, as far as there is room."""
        lengths = [i.end - i.start for row in self.priced.intervals for i in computed(row)]
        if not lengths:
            return 1.0
        return min(WIDEST, max(NARROWEST, BLOCK * self.span / min(lengths))) / self.span

    @property
    def span(self) -> float:
        return float(self.priced.makespan)

    @property
    def width(self) -> float:
        return self.x(self.span) + PEAKS + MARGIN

    @property
    def bottom(self) -> float:
        return self.y(self.schedule.ranks) - GAP

    def x(self, time: float) -> float:
        return MARGIN + LABELS + float(time) * self.scale

    def y(self, rank: int) -> float:
        return TOP + rank * (ROW + GAP)


def draw_svg(schedule: PipelineSchedule, costs: Costs = UNIT) -> str:
    """The picture of the schedule at these costs, as the text of an SVG file.

    Raises ScheduleError for a schedule that cannot be executed, as `prove` does.
    """
    layout = _Layout(schedule, price(schedule, costs))
    width, height = _n(layout.width), _n(layout.bottom + 92)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{FONT}">',
        f"<title>{escape(str(schedule))}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_headings(layout),
        *_rows(layout),
        *_blocks(layout),
        *_messages(layout, costs),
        *_axis(layout),
        *_legend(layout, costs),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _headings(layout: _Layout) -> Iterator[str]:
    schedule, bubbles = layout.schedule, layout.priced.bubbles
    words = [_count(schedule.ranks, "rank")]
    words += [f"{schedule.chunks} chunks"] if schedule.chunks > 1 else []
    words += [_count(schedule.micro_batches, "micro-batch", "es")]
    least, most = (f"{100 * bound:.1f}" for bound in (min(bubbles), max(bubbles)))
    words += [f"bubble {most if least == most else f'{least} to {most}'} %"]
    yield _text(MARGIN, 42, f"pipeline: {schedule.name}", size=20, weight=600)
    yield _text(MARGIN, 65, " \u00b7 ".join(words), size=13, fill=SOFT)
    right = layout.width - MARGIN
    yield _text(right, TOP - 10, "activations held", size=11, fill=SOFT, at="end")


def _rows(layout: _Layout) -> Iterator[str]:
    """For each rank its name, an empty row, and the most activations that it holds.

    Those of a chunk are of so much less of the rank's layers.
    """
    across = f'x="{_n(layout.x(0))}" width="{_n(layout.x(layout.span) - layout.x(0))}"'
    chunks = layout.schedule.chunks
    size = f" \u00d7 1/{chunks}" if chunks > 1 else ""
    for rank, peak in enumerate(prove(layout.schedule).peaks):
        y, middle = layout.y(rank), layout.y(rank) + ROW / 2 + 5
        yield _text(MARGIN, middle, f"rank {rank}", size=13, weight=600)
        yield f'<rect {across} y="{_n(y)}" height="{ROW}" fill="#f7f8fa" stroke="{FAINT}"/>'
        yield _text(layout.width - MARGIN, middle, f"{peak}{size}", size=13, at="end")


def _blocks(layout: _Layout) -> Iterator[str]:
    for rank, intervals in enumerate(layout.priced.intervals):
        for action, start, end in computed(intervals):
            box = (layout.x(start), layout.y(rank), layout.x(end) - layout.x(start))
            yield from _block(layout.schedule, action, *box)


def _block(
    schedule: PipelineSchedule, action: Action, x: float, y: float, width: float
) -> Iterator[str]:
    chunk = schedule.chunk_of(action.stage)
    paleness = 0.6 * chunk / max(1, schedule.chunks - 1)
    yield (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{ROW}" '
        f'fill="{_pale(COLOURS[action.kind], paleness)}" stroke="#ffffff"/>'
    )
    number = str(action.micro_batch)
    if width >= 4 + 7 * len(number):
        ink = INK if paleness > 0.35 else "#ffffff"
        yield _text(x + width / 2, y + ROW / 2 + 4.5, number, size=12, fill=ink, at="middle")


def _messages(layout: _Layout, costs: Costs) -> Iterator[str]:
    """Lines from where a message leaves to where it arrives, if that takes any time."""
    if not costs.transfer + costs.latency:
        return
    for rank, intervals in enumerate(layout.priced.intervals):
        for action, start, end in intervals:
            if action.kind.startswith("SEND"):
                peer = layout.schedule.peer(action)
                leaves, arrives = (ROW - 3, 3) if peer > rank else (3, ROW - 3)
                yield (
                    f'<path d="M{_n(layout.x(start))} {_n(layout.y(rank) + leaves)}'
                    f'L{_n(layout.x(end))} {_n(layout.y(peer) + arrives)}" '
                    f'stroke="{INK}" stroke-opacity="0.55" stroke-width="1"/>'
                )


def _axis(layout: _Layout) -> Iterator[str]:
    """Ticks at round numbers, about 60 pixels apart."""
    y, step = layout.bottom + 8, _round_step(60 / layout.scale)
    yield _text(MARGIN, y + 15, "time", size=12, fill=SOFT)
    for tick in range(math.floor(layout.span / step + 1e-9) + 1):
        x = layout.x(tick * step)
        yield f'<path d="M{_n(x)} {_n(y - 4)}v6" stroke="{SOFT}"/>'
        yield _text(x, y + 15, f"{tick * step:g}", size=11, fill=SOFT, at="middle")


def _round_step(least: float) -> float:
    """The least 1, 2 or 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _legend(layout: _Layout, costs: Costs) -> Iterator[str]:
    """What colours, shades and lines mean."""
    schedule = layout.schedule
    kinds = {action.kind for program in schedule.compute for action in program}
    words = {"F": "forward", "B": "backward", "I": "backward to inputs", "W": "to weights"}
    signs = [(COLOURS[kind], meaning) for kind, meaning in words.items() if kind in kinds]
    for chunk in range(schedule.chunks if schedule.chunks > 1 else 0):
        shade = _pale(COLOURS["F"], 0.6 * chunk / (schedule.chunks - 1))
        signs.append((shade, f"chunk {chunk}"))
    signs.append(("#f7f8fa", "idle"))
    x, y = float(MARGIN), layout.bottom + 46
    for fill, meaning in signs:
        yield (
            f'<rect x="{_n(x)}" y="{_n(y)}" width="22" height="18" fill="{fill}" stroke="{FAINT}"/>'
        )
        yield _text(x + 30, y + 13.5, meaning, size=12, fill=SOFT)
        x += 30 + 6.7 * len(meaning) + 20
    if costs.transfer + costs.latency:
        yield f'<path d="M{_n(x + 2)} {_n(y)}l18 18" stroke="{INK}" stroke-opacity="0.55"/>'
        yield _text(x + 30, y + 13.5, "message", size=12, fill=SOFT)


def _pale(colour: str, paleness: float) -> str:
    """The colour, mixed with white: 0 not at all, 1 nothing else."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * paleness):02x}" for part in parts)


def _text(
    x: float, y: float, words: str, *, size: int, fill: str = INK, weight: int = 400, at: str = ""
) -> str:
    anchor = f' text-anchor="{at}"' if at else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}" font-weight="{weight}" '
        f'fill="{fill}"{anchor}>{escape(words)}</text>'
    )


def _count(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}" + ("" if number == 1 else ending)


def _n(value: float) -> str:
    """A number as short as it can be: at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")
