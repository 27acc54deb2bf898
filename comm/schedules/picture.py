"""A schedule as a picture: time runs downwards, ranks stand side by side, arrows are messages.

Every rank's slots are cells; a cell has a stripe in the colour of each rank whose value it holds.
The text of an SVG is built by hand: it depends on nothing, and is the same every time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ringlet.comm.schedules.schedule import Schedule
from ringlet.comm.schedules.trace import Trace, Transfer, trace

PALETTE = (
    "#3f6fd8", "#f07f1e", "#35a35a", "#d93a6a", "#8a5bd1", "#11a3ad", "#a0694a", "#c79a00",
)  # fmt: skip
INK, SOFT, FAINT = "#1c2330", "#667085", "#d5dae3"
FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
MARGIN, LABELS, TOP = 28, 74, 128
NARROWEST, WIDEST = 640.0, 1220.0


def colour(rank: int) -> str:
    """Of eight ranks each has its own; those beyond go round the colour circle."""
    if rank < len(PALETTE):
        return PALETTE[rank]
    return f"hsl({round(rank * 137.508) % 360}, {50 + rank % 3 * 12}%, {42 + rank % 2 * 12}%)"


@dataclass(frozen=True)
class _Layout:
    """Where everything stands, in pixels."""

    size: int
    slots: int
    rounds: int

    @property
    def cell(self) -> float:
        """A cell's width: as wide as the picture allows."""
        room = WIDEST - 2 * MARGIN - LABELS - self.size * 30
        return max(
            7.0, min(44.0 if self.slots == 1 else 26.0, room / max(1, self.size * self.slots))
        )

    @property
    def gap(self) -> float:
        """Between ranks."""
        room = NARROWEST - 2 * MARGIN - LABELS - self.size * self.slots * self.cell
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
        return max(self.left(self.size) - self.gap + MARGIN, NARROWEST)

    def left(self, rank: int, slot: int = 0) -> float:
        return MARGIN + LABELS + rank * (self.slots * self.cell + self.gap) + slot * self.cell

    def middle(self, rank: int, slot: int) -> float:
        return self.left(rank, slot) + self.cell / 2

    def top(self, round_: int) -> float:
        return TOP + round_ * self.pitch


def draw_svg(schedule: Schedule, segments: int = 1, ports: int = 1) -> str:
    """The picture as the text of an SVG file."""
    return svg_of(trace(schedule, segments, ports), segments)


def svg_of(followed: Trace, segments: int = 1) -> str:
    """The same of a schedule that has been followed, with every slot cut into `segments`."""
    plan = followed.schedule
    layout = _Layout(plan.size, plan.slots, followed.rounds)
    legend, bottom = _legend(layout, plan.reduces)
    width, height = _n(layout.width), _n(bottom + MARGIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{FONT}">',
        f"<title>{escape(plan.name)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_headings(followed, layout, segments),
        *_labels(layout),
        *(_transfer(transfer, layout) for transfer in followed.transfers),
        *_cells(followed, layout),
        *legend,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _headings(followed: Trace, layout: _Layout, segments: int) -> Iterator[str]:
    plan = followed.schedule
    words = [_count(plan.size, "rank"), _count(followed.rounds, "round")]
    words += [_count(plan.slots // segments, "slot")]
    words += [f"cut into {segments} segments"] if segments > 1 else []
    title = f"{plan.operation}: {plan.algorithm}".replace("_", "-")
    yield _text(MARGIN, 42, title, size=20, weight=600)
    yield _text(MARGIN, 65, " \u00b7 ".join(words), size=13, fill=SOFT)


def _labels(layout: _Layout) -> Iterator[str]:
    """Ranks and slots across, rounds down."""
    for rank in range(layout.size):
        middle = layout.left(rank) + layout.slots * layout.cell / 2
        yield _text(middle, TOP - 24, f"rank {rank}", size=13, weight=600, at="middle")
        for slot in range(layout.slots if layout.slots > 1 and layout.cell > 10 else 0):
            x = layout.middle(rank, slot)
            yield _text(x, TOP - 7, str(slot), size=9, fill=SOFT, at="middle")
    for round_ in range(layout.rounds + 1):
        label = f"round {round_}" if round_ else "start"
        yield _text(MARGIN, layout.top(round_) + layout.height / 2 + 4, label, size=12, fill=SOFT)


def _cells(followed: Trace, layout: _Layout) -> Iterator[str]:
    for round_, state in enumerate(followed.states):
        for rank, slots in enumerate(state):
            for slot, held in enumerate(slots):
                ranks = None if held is None else sorted({r for r, _ in held})
                box = (layout.left(rank, slot) + 1, layout.top(round_), layout.cell - 2)
                finished = followed.finished(round_, rank, slot)
                yield from _cell(*box, layout.height, ranks, finished)


def _cell(
    x: float, y: float, width: float, height: float, ranks: list[int] | None, finished: bool
) -> Iterator[str]:
    """A stripe for each rank; None: an empty cell."""
    across = f'x="{_n(x)}" width="{_n(width)}"'
    frame = f'<rect {across} y="{_n(y)}" height="{_n(height)}"'
    if ranks is None:
        yield f'{frame} fill="#f7f8fa" stroke="{FAINT}"/>'
        return
    stripe = height / len(ranks)
    for i, rank in enumerate(ranks):
        yield (
            f'<rect {across} y="{_n(y + i * stripe)}" height="{_n(stripe)}" '
            f'fill="{colour(rank)}" shape-rendering="crispEdges"/>'
        )
    if finished:
        yield f'{frame} fill="none" stroke="{INK}" stroke-width="{1.8 if width > 10 else 1.2}"/>'


def _transfer(transfer: Transfer, layout: _Layout) -> str:
    return _arrow(
        layout.middle(transfer.sender, transfer.source),
        layout.top(transfer.round - 1) + layout.height + 3,
        layout.middle(transfer.receiver, transfer.slot),
        layout.top(transfer.round) - 3,
        colour(transfer.sender),
        transfer.combined,
    )


def _arrow(x: float, y: float, to_x: float, to_y: float, paint: str, combined: bool) -> str:
    """A curve that leaves and arrives vertically, and its head."""
    neck = to_y - 6
    bend = (neck - y) * 0.6
    curve = f"M{_n(x)} {_n(y)}C{_n(x)} {_n(y + bend)} {_n(to_x)} {_n(neck - bend)}"
    dash = "" if combined else ' stroke-dasharray="4 3"'
    return (
        f'<path d="{curve} {_n(to_x)} {_n(neck)}" fill="none" stroke="{paint}" '
        f'stroke-width="1.6"{dash}/>'
        f'<path d="M{_n(to_x - 3.5)} {_n(neck)}h7l-3.5 6.5z" fill="{paint}"/>'
    )


def _legend(layout: _Layout, reduces: bool) -> tuple[list[str], float]:
    """What the signs mean, in as many lines as it needs; and where the last one ends."""
    lines: list[str] = []
    x, y = float(MARGIN), layout.top(layout.rounds) + layout.height + 34
    for sign, words in _signs(reduces):
        width = 34 + 6.7 * len(words)
        if x > MARGIN and x + width > layout.width - MARGIN:
            x, y = float(MARGIN), y + 36
        lines += [*sign(x, y), _text(x + 32, y + 18, words, size=12, fill=SOFT)]
        x += width + 22
    return lines, y + 28


def _signs(reduces: bool) -> Iterator[tuple[Callable[[float, float], Iterable[str]], str]]:
    """(the sign at a place, its meaning)"""

    def cell(ranks: list[int] | None, finished: bool) -> Callable[[float, float], Iterable[str]]:
        return lambda x, y: _cell(x, y, 22, 26, ranks, finished)

    def arrow(combined: bool) -> Callable[[float, float], Iterable[str]]:
        return lambda x, y: [_arrow(x + 11, y - 3, x + 11, y + 28, SOFT, combined)]

    yield cell([0], False), "from one rank"
    if reduces:
        yield cell([0, 1], False), "from two, combined"
    else:
        yield cell(None, False), "nothing yet"
    yield cell([0, 1] if reduces else [0], True), "as promised"
    if reduces:
        yield arrow(True), "is combined with the slot"
    yield arrow(False), "replaces the slot"


def _text(
    x: float, y: float, words: str, *, size: int, fill: str = INK, weight: int = 400, at: str = ""
) -> str:
    anchor = f' text-anchor="{at}"' if at else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}" font-weight="{weight}" '
        f'fill="{fill}"{anchor}>{escape(words)}</text>'
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _n(value: float) -> str:
    """A number as short as it can be: at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")
