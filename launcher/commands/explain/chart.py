"""What a topic shows: rows of boxes, drawn for the terminal and as SVG, and as a table.

A section's boxes are either cells of a grid or parts of a length in some unit (bytes, seconds). A
box's kind has a colour and a hatch, in the terminal a mark; what matters is also written into it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, wrap
from typing import ClassVar, NamedTuple

import click

from ringlet.comm.schedules import svg
from ringlet.launcher.commands.explain.collective import write_file
from ringlet.launcher.commands.plan.tables import aligned
from ringlet.launcher.errors import UserError
from ringlet.launcher.options import option

MARKS = "#=+:o*%~&x"
WIDTH, PLOT = 96, 720.0
"""Columns of the terminal, and pixels of the longest row of a section with a unit."""

TOP, ROW, MIDDLE, LETTER = 94, 28.0, 18.5, 6.9
"""Pixels: where rows begin, their height, where their text stands, and the width of a letter."""

MOST = 5000
"""Boxes of the largest picture."""


class Box(NamedTuple):
    """From `start` to `stop` of its row: cells count from 0. Without a kind it is empty."""

    start: float
    stop: float
    kind: str = ""
    label: str = ""
    half: bool = False
    """Only what lies below its diagonal counts."""


class Row(NamedTuple):
    """Boxes side by side, and what is said at their end."""

    name: str
    boxes: Sequence[Box]
    note: str = ""


class Section(NamedTuple):
    """Rows; `unit` writes a length, and without it boxes are cells of one width."""

    heading: str
    rows: Sequence[Row]
    unit: Callable[[float], str] | None = None


@dataclass(frozen=True)
class Chart:
    """A title, facts in a row below it, sections, and notes at the end. Sections with units have
    one scale, so that they can be compared."""

    title: str
    facts: Sequence[str]
    kinds: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()

    @property
    def span(self) -> float:
        """Where the longest row of a section with a unit ends."""
        rows = (row for section in self.sections if section.unit for row in section.rows)
        return max((box.stop for row in rows for box in row.boxes), default=0.0) or 1.0


def cells(*boxes: tuple[str, str]) -> list[Box]:
    """Cells side by side, from their kinds and labels."""
    return [Box(place, place + 1, *each) for place, each in enumerate(boxes)]


@dataclass(frozen=True)
class ShowOptions:
    """How a chart is shown."""

    HEADING: ClassVar = "Output"
    svg: Path | None = option(None, "Write a picture to this file.", metavar="FILE")
    table: bool = option(False, "Print tables without drawings, for what is wide.")

    def show(self, chart: Chart) -> None:
        """Print the chart, and write its picture; raises UserError if that fails."""
        if self.svg is not None:
            count = sum(len(row.boxes) for section in chart.sections for row in section.rows)
            if count > MOST:
                raise UserError(
                    f"a picture of {count} boxes is too large; the most are {MOST}: --table "
                    "without --svg shows all"
                )
            write_file(draw_svg(chart), self.svg)
        click.echo(draw_text(chart, self.table))


def draw_text(chart: Chart, table: bool = False) -> str:
    """The chart for a terminal; with `table` without bars."""
    lines = [chart.title, fill(", ".join(chart.facts), WIDTH)]
    for section in chart.sections:
        lines += ["", f"{section.heading}:"]
        if section.unit is None:
            lines += _grid(section)
        else:
            lines += (_sums if table else _bars)(section, chart)
    if not table and any(section.unit for section in chart.sections):
        marks = (f"{_mark(chart, kind)} {kind}" for kind in chart.kinds)
        lines += ["", fill(", ".join(marks), WIDTH)]
    notes = [fill(note, WIDTH, break_on_hyphens=False) for note in chart.notes]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _mark(chart: Chart, kind: str) -> str:
    return MARKS[chart.kinds.index(kind) % len(MARKS)] if kind else " "


def _grid(section: Section) -> list[str]:
    """The labels in columns."""
    rows = []
    for row in section.rows:
        words = ((b.label or b.kind or ".") + "\\" * b.half for b in row.boxes)
        rows.append([row.name, *words, row.note])
    return _fitted(rows, [" ".join([f"{name}:", *words]) for name, *words in rows])


def _sums(section: Section, chart: Chart) -> list[str]:
    """How long the boxes of each kind are together."""
    here = {box.kind for row in section.rows for box in row.boxes}
    kinds, unit = [kind for kind in chart.kinds if kind in here], section.unit or str
    rows = [["", *kinds, ""]]
    for row in section.rows:
        sums = (sum(b.stop - b.start for b in row.boxes if b.kind == kind) for kind in kinds)
        rows.append([row.name, *(unit(each) if each else "-" for each in sums), row.note])
    parts = (
        [f"{kind} {size}" for kind, size in zip(kinds, sizes, strict=True) if size != "-"]
        for _, *sizes, _ in rows[1:]
    )
    written = zip(section.rows, parts, strict=True)
    return _fitted(rows, [f"{row.name}: {', '.join([*own, row.note])}" for row, own in written])


def _fitted(rows: list[list[str]], lines: list[str]) -> list[str]:
    """Rows as a table, turned if that fits better; or these lines, if neither fits."""
    for table in (rows, list(zip(*rows, strict=True))):
        found = aligned([tuple(cells) for cells in table])
        if max(map(len, found)) <= WIDTH:
            return list(filter(None, found))
    return [fill(line.strip(), WIDTH, subsequent_indent="  ") for line in lines]


def _bars(section: Section, chart: Chart) -> list[str]:
    margin = max(len(row.name) for row in section.rows) + 2
    room = WIDTH - margin - max(len(row.note) for row in section.rows) - 2
    scale = max(20, room) / chart.span
    longest = max(round(row.boxes[-1].stop * scale) for row in section.rows)
    lines = []
    for row in section.rows:
        line = ""
        for box in row.boxes:
            first, last = round(box.start * scale), round(box.stop * scale)
            width, mark = last - max(first, len(line)), _mark(chart, box.kind)
            text = f"{mark}{box.label}" if len(box.label) + 2 <= width else ""
            line = line.ljust(first) + text.ljust(max(0, width - bool(text)), mark)
            line += " " * bool(text)
        lines.append(f"{row.name:<{margin}}{line:<{longest}}  {row.note}".rstrip())
    return lines


def draw_svg(chart: Chart) -> str:
    """The chart as the text of an SVG file."""
    names = [row.name for section in chart.sections for row in section.rows]
    left = svg.MARGIN + LETTER * max(map(len, names)) + 16
    colours = enumerate(map(svg.colour, range(len(chart.kinds))))
    parts = [svg.hatch(f"k{number}", colour, number) for number, colour in colours]
    y, right = float(TOP), PLOT
    right = max(right, svg.MARGIN + LETTER * len(" - ".join(chart.facts)))
    for section in chart.sections:
        scale = PLOT / chart.span if section.unit else _cell(section)
        end = (
            left
            + max((row.boxes[-1].stop for row in section.rows if row.boxes), default=0.0) * scale
        )
        notes = max(len(row.note) for row in section.rows)
        right = max(right, end + LETTER * notes + 12)
        parts.append(svg.text(svg.MARGIN, y + 8, section.heading, size=13, weight=600))
        y += 20
        parts += _boxes(chart, section, left, y, scale)
        for row in section.rows:
            said = (svg.MARGIN, row.name, svg.INK), (end + 12, row.note, svg.SOFT)
            parts += [svg.text(x, y + MIDDLE, t, size=12, fill=fill) for x, t, fill in said if t]
            y += ROW + 4
        if section.unit is not None:
            parts += _axis(section.unit, (end - left) / scale, left, y, scale)
            y += 22
        y += 22
    legend, y = _legend(chart, right, y)
    for line in (
        line
        for note in chart.notes
        for line in wrap(note, round(right / 6.6), break_on_hyphens=False)
    ):
        legend.append(svg.text(svg.MARGIN, y + 12, line, size=12, fill=svg.SOFT))
        y += 18
    parts = [*svg.headings(chart.title, chart.facts), *parts, *legend]
    return svg.document(chart.title, right + svg.MARGIN, y + svg.MARGIN, parts)


def _cell(section: Section) -> float:
    """How wide cells are."""
    return max(26.0, 12 + LETTER * max(len(box.label) for row in section.rows for box in row.boxes))


def _paint(chart: Chart, kind: str) -> str:
    if not kind:
        return f'fill="{svg.EMPTY}" stroke="{svg.FAINT}"'
    return f'fill="url(#k{chart.kinds.index(kind)})" stroke="{svg.PAPER}"'


def _boxes(chart: Chart, section: Section, left: float, y: float, scale: float) -> Iterator[str]:
    """All of a kind in one path, and their labels where they fit."""
    paths: dict[str, list[str]] = {}
    labels = list[tuple[float, float, str, str]]()
    for number, row in enumerate(section.rows):
        top = y + number * (ROW + 4)
        for start, stop, kind, label, half in row.boxes:
            x, wide = left + start * scale, (stop - start) * scale
            if wide <= 0:
                continue
            shape = svg.box(x, top, wide, ROW)
            if half:
                paths.setdefault("", []).append(shape)
                shape = f"M{svg.point(x, top)}l{svg.number(wide)} {ROW:g}h-{svg.number(wide)}z"
            paths.setdefault(kind, []).append(shape)
            if label and LETTER * len(label) + 4 <= wide:
                ink = svg.ink_on(svg.colour(chart.kinds.index(kind))) if kind else svg.SOFT
                middle = x + wide * (0.3 if half else 0.5), top + MIDDLE + 4 * half
                labels.append((*middle, label, ink))
    for kind, shapes in sorted(paths.items()):
        yield f'<path d="{"".join(shapes)}" {_paint(chart, kind)}/>'
    yield from svg.labels(11, labels)


def _axis(
    unit: Callable[[float], str], span: float, left: float, y: float, scale: float
) -> Iterator[str]:
    step = svg.round_step(90 / scale)
    for tick in range(int(span / step + 1e-9) + 1):
        x, words = left + tick * step * scale, unit(tick * step) if tick else "0"
        yield f'<path d="M{svg.point(x, y - 3)}v6" stroke="{svg.SOFT}"/>'
        yield svg.text(x, y + 15, words, size=11, fill=svg.SOFT, at="middle")


def _legend(chart: Chart, right: float, y: float) -> tuple[list[str], float]:
    """The kinds in as many lines as they need, and where the last one ends."""
    lines, x = list[str](), float(svg.MARGIN)
    for kind in chart.kinds:
        width = 48 + LETTER * len(kind)
        if x > svg.MARGIN and x + width > right:
            x, y = float(svg.MARGIN), y + 26
        lines.append(f'<path d="{svg.box(x, y, 22, 18)}" {_paint(chart, kind)}/>')
        lines.append(svg.text(x + 30, y + 13.5, kind, size=12, fill=svg.SOFT))
        x += width
    return lines, y + 30
