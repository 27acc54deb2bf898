"""A schedule as a picture: time runs downwards, ranks stand side by side, arrows are messages.

Every rank's slots are cells; a cell has a stripe in the colour of each rank whose value it holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ringlet.comm.schedules import svg
from ringlet.comm.schedules.prove import Transfer
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
        *(_transfer(transfer, grid) for transfer in traced.transfers),
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
    for round_, state in enumerate(traced.states):
        for rank, slots in enumerate(state):
            for slot, held in enumerate(slots):
                ranks = None if held is None else sorted({r for r, _ in held})
                box = (grid.left(rank, slot) + 1, grid.top(round_), grid.cell - 2)
                finished = traced.finished(round_, rank, slot)
                yield from _cell(*box, grid.height, ranks, finished)


def _cell(
    x: float, y: float, width: float, height: float, ranks: list[int] | None, finished: bool
) -> Iterator[str]:
    """A stripe for each rank; None: an empty cell."""
    across = f'x="{svg.number(x)}" width="{svg.number(width)}"'
    frame = f'<rect {across} y="{svg.number(y)}" height="{svg.number(height)}"'
    if ranks is None:
        yield f'{frame} fill="{svg.EMPTY}" stroke="{svg.FAINT}"/>'
        return
    stripe = height / len(ranks)
    for i, rank in enumerate(ranks):
        yield (
            f'<rect {across} y="{svg.number(y + i * stripe)}" height="{svg.number(stripe)}" '
            f'fill="{svg.colour(rank)}" shape-rendering="crispEdges"/>'
        )
    if finished:
        thick = 1.8 if width > 10 else 1.2
        yield f'{frame} fill="none" stroke="{svg.INK}" stroke-width="{thick}"/>'


def _transfer(transfer: Transfer, grid: _Grid) -> str:
    return _arrow(
        grid.middle(transfer.sender, transfer.source),
        grid.top(transfer.round - 1) + grid.height + 3,
        grid.middle(transfer.receiver, transfer.slot),
        grid.top(transfer.round) - 3,
        svg.colour(transfer.sender),
        transfer.combined,
    )


def _arrow(x: float, y: float, to_x: float, to_y: float, paint: str, combined: bool) -> str:
    """A curve that leaves and arrives vertically, and its head."""
    neck = to_y - 6
    bend = (neck - y) * 0.6
    curve = f"M{svg.point(x, y)}C{svg.point(x, y + bend)} {svg.point(to_x, neck - bend)}"
    dash = "" if combined else ' stroke-dasharray="4 3"'
    return (
        f'<path d="{curve} {svg.point(to_x, neck)}" fill="none" stroke="{paint}" '
        f'stroke-width="1.6"{dash}/>'
        f'<path d="M{svg.point(to_x - 3.5, neck)}h7l-3.5 6.5z" fill="{paint}"/>'
    )


def _legend(grid: _Grid, reduces: bool) -> tuple[list[str], float]:
    """What the signs mean, in as many lines as it needs; and where the last one ends."""
    two = [0, 1] if reduces else None
    # (meaning, ranks of a cell, whether it is finished, or whether an arrow combines)
    signs: list[tuple[str, list[int] | None, bool, bool | None]] = [
        ("from one rank", [0], False, None),
        ("from two, combined" if reduces else "nothing yet", two, False, None),
        ("as promised", two or [0], True, None),
        *([("is combined with the slot", None, False, True)] if reduces else []),
        ("replaces the slot", None, False, False),
    ]
    lines: list[str] = []
    x, y = float(svg.MARGIN), grid.top(grid.rounds) + grid.height + 34
    for words, ranks, finished, combined in signs:
        width = 34 + 6.7 * len(words)
        if x > svg.MARGIN and x + width > grid.width - svg.MARGIN:
            x, y = float(svg.MARGIN), y + 36
        if combined is None:
            lines += _cell(x, y, 22, 26, ranks, finished)
        else:
            lines.append(_arrow(x + 11, y - 3, x + 11, y + 28, svg.SOFT, combined))
        lines.append(svg.text(x + 32, y + 18, words, size=12, fill=svg.SOFT))
        x += width + 22
    return lines, y + 28
