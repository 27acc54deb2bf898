"""A schedule as a picture: time runs downwards, ranks stand side by side, arrows are messages.

Every rank's slots are cells; a cell has a stripe in the colour of each rank whose value it holds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import NamedTuple

from ringlet.comm.schedules import svg
from ringlet.comm.schedules.draw import runs
from ringlet.comm.schedules.trace import Trace

LABELS, TOP = 74, 128
NARROWEST, WIDEST = 640.0, 1220.0


@dataclass(frozen=True)
class _Grid:
    """Where everything stands, in pixels."""

    size: int
    slots: int
    rounds: int

    @property
    def cell(self) -> float:
        """A cell's width: as wide as the picture allows."""
        room = WIDEST - 2 * svg.MARGIN - LABELS - self.size * 30
        return max(
            7.0, min(44.0 if self.slots == 1 else 26.0, room / max(1, self.size * self.slots))
        )

    @property
    def gap(self) -> float:
        """Between ranks."""
        room = NARROWEST - 2 * svg.MARGIN - LABELS - self.size * self.slots * self.cell
        return max(30.0, min(90.0, room / max(1, self.size - 1)))

    @property
    def height(self) -> float:
        """A cell's height: room for a stripe of each rank."""
        return max(28.0, min(4.0 * self.size, 64.0))

    @property
    def pitch(self) -> float:
        """From round to round; long arrows need room to turn."""
        return self.height + 42.0 + 3.0 * min(self.size, 12)

    @property
    def width(self) -> float:
        return max(self.left(self.size) - self.gap + svg.MARGIN, NARROWEST)

    def left(self, rank: int, slot: int = 0) -> float:
        return svg.MARGIN + LABELS + rank * (self.slots * self.cell + self.gap) + slot * self.cell

    def middle(self, rank: int, slot: int) -> float:
        return self.left(rank, slot) + self.cell / 2

    def top(self, round_: int) -> float:
        return TOP + round_ * self.pitch


def draw_svg(traced: Trace) -> str:
    """The picture as the text of an SVG file."""
    schedule = traced.schedule
    grid = _Grid(schedule.size, schedule.slots, traced.rounds)
    legend, bottom = _legend(grid, schedule.reduces)
    facts = [svg.counted(schedule.size, "rank"), svg.counted(traced.rounds, "round")]
    facts += [svg.counted(schedule.slots // traced.segments, "slot")]
    facts += [f"cut into {traced.segments} segments"] if traced.segments > 1 else []
    parts = [
        *svg.headings(f"{schedule.operation}: {schedule.algorithm}".replace("_", "-"), facts),
        *_labels(grid),
        _gradient(grid),
        *_transfers(traced, grid),
        *_cells(traced, grid),
        *legend,
    ]
    return svg.document(str(schedule), grid.width, bottom + svg.MARGIN, parts)


def _labels(grid: _Grid) -> Iterator[str]:
    """Ranks and slots across, rounds down."""
    for rank in range(grid.size):
        middle = grid.left(rank) + grid.slots * grid.cell / 2
        yield svg.text(middle, TOP - 24, f"rank {rank}", size=13, weight=600, at="middle")
        for slot in range(grid.slots if grid.slots > 1 and grid.cell > 10 else 0):
            x = grid.middle(rank, slot)
            yield svg.text(x, TOP - 7, str(slot), size=9, fill=svg.SOFT, at="middle")
    for round_ in range(grid.rounds + 1):
        label = f"round {round_}" if round_ else "start"
        middle = grid.top(round_) + grid.height / 2
        yield svg.text(svg.MARGIN, middle + 4, label, size=12, fill=svg.SOFT)


def _cells(traced: Trace, grid: _Grid) -> Iterator[str]:
    """What slots hold. Cells that stay alike through the same rounds are drawn once and used again,
    which keeps pictures of many ranks small."""
    lasting: dict[tuple[int, int], list[_Cell]] = {}
    for rank, slot in product(range(grid.size), range(grid.slots)):
        held = [
            (state[rank][slot], traced.finished(round_, rank, slot))
            for round_, state in enumerate(traced.states)
        ]
        for (value, finished), run in groupby(range(len(held)), key=held.__getitem__):
            rounds = list(run)
            ranks = () if value is None else tuple(sorted({r for r, _ in value}))
            place = grid.left(rank, slot) + 1, grid.top(rounds[0])
            cell = _Cell(*place, ranks, finished)
            lasting.setdefault((rounds[0], rounds[-1]), []).append(cell)
    levels = grid.size if traced.schedule.reduces else 1
    for (first, last), cells in lasting.items():
        name = f"r{first}-{last}"
        yield f'<g id="{name}">'
        yield from _drawn(cells, grid, levels)
        yield "</g>"
        for later in range(1, last - first + 1):
            yield f'<use href="#{name}" y="{svg.number(later * grid.pitch)}"/>'


class _Cell(NamedTuple):
    """Where a cell begins, and of whose values it holds a part; none: it is empty."""

    x: float
    y: float
    ranks: tuple[int, ...]
    finished: bool


def _drawn(cells: Sequence[_Cell], grid: _Grid, levels: int) -> Iterator[str]:
    """Boxes, filled in the colour of the rank that they hold. Each of several `levels` is a rank's,
    so that its place tells what its colour does: runs of them are cut out of one gradient."""
    width, filled = grid.cell - 2, dict[str, list[str]]()
    frames = [svg.box(x, y, width, grid.height) for x, y, _, _ in cells]
    yield f'<path d="{"".join(frames)}" fill="{svg.EMPTY}" stroke="{svg.FAINT}"/>'
    for x, y, ranks, _ in cells:
        if levels == 1:
            for rank in ranks:
                filled.setdefault(svg.colour(rank), []).append(svg.box(x, y, width, grid.height))
        else:
            for run in runs(ranks):
                first, count = grid.height * run[0] / levels, grid.height * len(run) / levels
                filled.setdefault("url(#ranks)", []).append(svg.box(x, y + first, width, count))
    for paint, paths in filled.items():
        yield f'<path d="{"".join(paths)}" fill="{paint}" shape-rendering="crispEdges"/>'
    finished = "".join(frame for frame, cell in zip(frames, cells, strict=True) if cell.finished)
    if finished:
        thick = f'stroke-width="{1.8 if grid.cell > 12 else 1.2}"'
        yield f'<path d="{finished}" fill="none" stroke="{svg.INK}" {thick}/>'


def _gradient(grid: _Grid) -> str:
    """The ranks' colours below each other, as high as a cell, again in every round."""
    stops = "".join(
        f'<stop offset="{(rank + end) * grid.height / grid.size / grid.pitch:.5g}" '
        f'stop-color="{svg.colour(rank)}"/>'
        for rank in range(grid.size)
        for end in (0, 1)
    )
    place = f'x1="0" x2="0" y1="{TOP}" y2="{svg.number(TOP + grid.pitch)}"'
    kind = f'gradientUnits="userSpaceOnUse" spreadMethod="repeat" {place}'
    return f'<linearGradient id="ranks" {kind}>{stops}</linearGradient>'


def _transfers(traced: Trace, grid: _Grid) -> Iterator[str]:
    """Arrows from slot to slot; all of a colour and kind are two paths."""
    arrows: dict[tuple[int, bool], list[tuple[float, float, float, float]]] = {}
    for each in traced.transfers:
        start = grid.middle(each.sender, each.source), grid.top(each.round - 1) + grid.height + 3
        end = grid.middle(each.receiver, each.slot), grid.top(each.round) - 3
        arrows.setdefault((each.sender, each.combined), []).append((*start, *end))
    for (sender, combined), ends in arrows.items():
        yield from _arrows(ends, svg.colour(sender), combined)


def _arrows(
    ends: Iterable[tuple[float, float, float, float]], paint: str, combined: bool
) -> Iterator[str]:
    """Curves that leave and arrive vertically, and their heads."""
    curves, heads = [], []
    for x, y, to_x, to_y in ends:
        neck = to_y - 6
        bend = (neck - y) * 0.6
        curve = f"M{svg.point(x, y)}C{svg.point(x, y + bend)} {svg.point(to_x, neck - bend)}"
        curves.append(f"{curve} {svg.point(to_x, neck)}")
        heads.append(f"M{svg.point(to_x - 3.5, neck)}h7l-3.5 6.5z")
    dash = "" if combined else ' stroke-dasharray="4 3"'
    yield f'<path d="{"".join(curves)}" fill="none" stroke="{paint}" stroke-width="1.6"{dash}/>'
    yield f'<path d="{"".join(heads)}" fill="{paint}"/>'


def _legend(grid: _Grid, reduces: bool) -> tuple[list[str], float]:
    """What the signs mean, in as many lines as it needs; and where the last one ends."""
    both, levels = ((0, 1), grid.size) if reduces else ((), 1)
    everyone = tuple(range(levels))
    # (meaning, ranks of a cell, whether it is finished, or whether an arrow combines)
    signs: list[tuple[str, tuple[int, ...], bool, bool | None]] = [
        ("from rank 0", (0,), False, None),
        ("from ranks 0 and 1, combined" if reduces else "nothing yet", both, False, None),
        ("as promised", everyone, True, None),
        *([("is combined with the slot", (), False, True)] if reduces else []),
        ("replaces the slot", (), False, False),
    ]
    lines: list[str] = []
    x, y = float(svg.MARGIN), grid.top(grid.rounds) + grid.height + 34
    for words, ranks, finished, combined in signs:
        sign = max(24.0, grid.cell)
        width = sign + 10 + 6.7 * len(words)
        if x > svg.MARGIN and x + width > grid.width - svg.MARGIN:
            x, y = float(svg.MARGIN), y + grid.height + 10
        if combined is None:  # where the gradient begins, moved here
            lines.append(f'<g transform="translate({svg.point(x, y - TOP)})">')
            lines += [*_drawn([_Cell(0, TOP, ranks, finished)], grid, levels), "</g>"]
        else:
            lines += _arrows([(x + 11, y - 3, x + 11, y + 28)], svg.SOFT, combined)
        lines.append(svg.text(x + sign + 8, y + 18, words, size=12, fill=svg.SOFT))
        x += width + 22
    return lines, y + grid.height + 2
