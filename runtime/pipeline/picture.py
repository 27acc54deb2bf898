"""A pipeline schedule as a picture: time runs to the right, ranks stand below each other.

Forwards, backwards and backwards to the weights have a colour each, and chunks a shade of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ringlet.comm.schedules import svg
from ringlet.runtime.pipeline.actions import PipelineSchedule
from ringlet.runtime.pipeline.costs import UNIT, Costs
from ringlet.runtime.pipeline.draw import computed
from ringlet.runtime.pipeline.price import PipelinePrice, price
from ringlet.runtime.pipeline.prove import prove

COLOURS = {"F": svg.PALETTE[0], "B": svg.PALETTE[1], "I": svg.PALETTE[1], "W": svg.PALETTE[2]}
HATCHED = {"F": 0, "B": 1, "I": 1, "W": 2}
LABELS, PEAKS, TOP, ROW, GAP = 68, 96, 104, 38, 8
NARROWEST, WIDEST, BLOCK = 560.0, 1080.0, 26.0


@dataclass(frozen=True)
class _GanttChart:
    """Where everything stands, in pixels."""

    schedule: PipelineSchedule
    priced: PipelinePrice

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
    def right(self) -> float:
        """Where the column of peaks ends."""
        return self.x(self.span) + PEAKS

    @property
    def bottom(self) -> float:
        return self.y(self.schedule.ranks) - GAP

    def x(self, time: float) -> float:
        return svg.MARGIN + LABELS + float(time) * self.scale

    def y(self, rank: int) -> float:
        return TOP + rank * (ROW + GAP)


def draw_svg(schedule: PipelineSchedule, costs: Costs = UNIT) -> str:
    """The picture of the schedule at these costs, as the text of an SVG file.

    Raises ScheduleError for a schedule that cannot be executed, as `prove` does.
    """
    chart = _GanttChart(schedule, price(schedule, costs))
    parts = [
        *svg.headings(f"pipeline: {schedule.name}", _facts(chart)),
        svg.text(chart.right, TOP - 10, "activations held", size=11, fill=svg.SOFT, at="end"),
        *_rows(chart),
        *_blocks(chart),
        *_messages(chart, costs),
        *_axis(chart),
        *_legend(chart, costs),
    ]
    return svg.document(str(schedule), chart.right + svg.MARGIN, chart.bottom + 92, parts)


def _facts(chart: _GanttChart) -> Iterator[str]:
    schedule, bubbles = chart.schedule, chart.priced.bubbles
    yield svg.counted(schedule.ranks, "rank")
    if schedule.chunks > 1:
        yield f"{schedule.chunks} chunks"
    yield svg.counted(schedule.micro_batches, "micro-batch", "es")
    least, most = (f"{100 * bound:.1f}" for bound in (min(bubbles), max(bubbles)))
    yield f"bubble {most if least == most else f'{least} to {most}'} %"


def _rows(chart: _GanttChart) -> Iterator[str]:
    """Each rank's name, an empty row, and the most activations that it holds.

    The activations of a chunk are those of 1/chunks of the rank's layers.
    """
    across = f'x="{svg.number(chart.x(0))}" width="{svg.number(chart.x(chart.span) - chart.x(0))}"'
    chunks = chart.schedule.chunks
    size = f" \u00d7 1/{chunks}" if chunks > 1 else ""
    for rank, peak in enumerate(prove(chart.schedule).peaks):
        y, middle = chart.y(rank), chart.y(rank) + ROW / 2 + 5
        yield svg.text(svg.MARGIN, middle, f"rank {rank}", size=13, weight=600)
        box = f'{across} y="{svg.number(y)}" height="{ROW}"'
        yield f'<rect {box} fill="{svg.EMPTY}" stroke="{svg.FAINT}"/>'
        yield svg.text(chart.right, middle, f"{peak}{size}", size=13, at="end")


def _blocks(chart: _GanttChart) -> Iterator[str]:
    """Those of a kind and chunk in one path, and the micro-batches' numbers where they fit."""
    paths: dict[tuple[str, int], list[str]] = {}
    labels = list[tuple[float, float, str, str]]()
    for rank, intervals in enumerate(chart.priced.intervals):
        for action, start, end in computed(intervals):
            x, y, width = chart.x(start), chart.y(rank), chart.x(end) - chart.x(start)
            kind, label = action.kind, str(action.micro_batch)
            chunk = chart.schedule.chunk_of(action.stage)
            paths.setdefault((kind, chunk), []).append(svg.box(x, y, width, ROW))
            if width >= 4 + 7 * len(label):
                ink = svg.ink_on(_shade(chart.schedule, kind, chunk))
                labels.append((x + width / 2, y + ROW / 2 + 4.5, label, ink))
    for (kind, chunk), shapes in paths.items():
        yield svg.hatch(f"{kind}{chunk}", _shade(chart.schedule, kind, chunk), HATCHED[kind])
        yield f'<path d="{"".join(shapes)}" fill="url(#{kind}{chunk})" stroke="{svg.PAPER}"/>'
    yield from svg.labels(12, labels)


def _shade(schedule: PipelineSchedule, kind: str, chunk: int) -> str:
    """The colour of a kind, paler for later chunks."""
    return pale(COLOURS[kind], 0.6 * chunk / max(1, schedule.chunks - 1))


def _messages(chart: _GanttChart, costs: Costs) -> Iterator[str]:
    """Lines from where messages leave to where they arrive, if that takes any time."""
    if not costs.has_messages:
        return
    for rank, intervals in enumerate(chart.priced.intervals):
        for action, start, end in intervals:
            if action.kind.startswith("SEND"):
                peer = chart.schedule.peer(action)
                leaves, arrives = (ROW - 3, 3) if peer > rank else (3, ROW - 3)
                yield (
                    f'<path d="M{svg.point(chart.x(start), chart.y(rank) + leaves)}'
                    f'L{svg.point(chart.x(end), chart.y(peer) + arrives)}" '
                    f'stroke="{svg.INK}" stroke-opacity="0.55" stroke-width="1"/>'
                )


def _axis(chart: _GanttChart) -> Iterator[str]:
    """Ticks at round numbers, about 60 pixels apart."""
    step = svg.round_step(60 / chart.scale)
    y = chart.bottom + 8
    yield svg.text(svg.MARGIN, y + 15, "time", size=12, fill=svg.SOFT)
    for tick in range(math.floor(chart.span / step + 1e-9) + 1):
        x = chart.x(tick * step)
        yield f'<path d="M{svg.point(x, y - 4)}v6" stroke="{svg.SOFT}"/>'
        yield svg.text(x, y + 15, f"{tick * step:g}", size=11, fill=svg.SOFT, at="middle")


def _legend(chart: _GanttChart, costs: Costs) -> Iterator[str]:
    schedule = chart.schedule
    kinds = {action.kind for program in schedule.compute for action in program}
    words = {"F": "forward", "B": "backward", "I": "backward to inputs", "W": "to weights"}
    signs = [(f"url(#{kind}0)", meaning) for kind, meaning in words.items() if kind in kinds]
    for chunk in range(schedule.chunks if schedule.chunks > 1 else 0):
        signs.append((_shade(schedule, "F", chunk), f"chunk {chunk}"))
    signs.append((svg.EMPTY, "idle"))
    x, y = float(svg.MARGIN), chart.bottom + 46
    for fill, meaning in signs:
        place = f'x="{svg.number(x)}" y="{svg.number(y)}"'
        yield f'<rect {place} width="22" height="18" fill="{fill}" stroke="{svg.FAINT}"/>'
        yield svg.text(x + 30, y + 13.5, meaning, size=12, fill=svg.SOFT)
        x += 30 + 6.7 * len(meaning) + 20
    if costs.has_messages:
        yield f'<path d="M{svg.point(x + 2, y)}l18 18" stroke="{svg.INK}" stroke-opacity="0.55"/>'
        yield svg.text(x + 30, y + 13.5, "message", size=12, fill=svg.SOFT)


def pale(colour: str, paleness: float) -> str:
    """The colour mixed with white, from 0 (the colour) to 1 (white)."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * paleness):02x}" for part in parts)
