"""What is watched, in the terminal: redrawn in place, or as plain lines where that cannot be."""

import io
import time

from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ringlet.launcher.commands.train.progress import PLAIN_EVERY_S
from ringlet.launcher.commands.watch.plot import drawn
from ringlet.launcher.commands.watch.watched import EVERY_S, View, Watched
from ringlet.launcher.supervisor.output import Screen

LEAST_ROWS, MOST_ROWS = 4, 14
"""Of the picture."""

WIDE = 100
"""Columns from which on a rank's own figures are shown, too."""

COLOURS = {"waits": "yellow", "does not answer": "red", "computes": "green"}


def show(watched: Watched, screen: Screen) -> None:
    """Show it until it is over, or until nobody reads any more."""
    watched.wait(EVERY_S)
    view = watched.look()
    plain = Plain(screen)
    while not screen.abandoned:
        if screen.live:
            screen.redraw(frame(view, *screen.size(), unicode=screen.unicode))
        else:
            plain.take(view)
        if view.over:
            return
        time.sleep(EVERY_S)
        view = watched.look()


class Plain:
    """A line now and then: when something has changed, or PLAIN_EVERY_S have passed."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._seen, self._at, self._named = screen, ("", 0.0), 0.0, False

    def take(self, view: View) -> None:
        """Show it, if it is time."""
        if not self._named:
            self._named = True
            command = f" ({view.command})" if view.command else ""
            self._screen.line(f"watching {view.name}{command}")
        read = view.reading
        seen = view.state, -1.0 if read.behind else read.row.get("val_step", -1.0)
        if seen != self._seen or time.monotonic() >= self._at:
            self._seen, self._at = seen, time.monotonic() + PLAIN_EVERY_S
            figures = [f"{name} {text}" for name, text in view.figures[:3]]
            self._screen.line("; ".join([", ".join([view.says, *figures]), *said(view)]))


def said(view: View) -> list[str]:
    """Who waits, and what cannot be seen."""
    return [*view.waiting, *view.notes]


def frame(view: View, width: int, height: int, unicode: bool = True) -> str:
    """A picture of `width` columns and less than `height` lines."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, legacy_windows=False,
        highlight=False, markup=False, emoji=False, safe_box=not unicode,
    )  # fmt: skip
    head = [*_head(view, width, unicode), *(Text(text, "yellow") for text in said(view))]
    above = len(_lines(console, head))
    ranks = _ranks(view, max(3, height - above - LEAST_ROWS - 4), width >= WIDE, unicode)
    left = height - above - len(_lines(console, ranks)) - 3
    rows = min(MOST_ROWS, left)
    picture = []
    if rows >= LEAST_ROWS and view.reading.loss:
        picture = drawn(view.reading.loss, view.reading.validation, width, rows, unicode)
    body: list[RenderableType] = [*head, *(Text(line, no_wrap=True) for line in picture), *ranks]
    lines = _lines(console, body)[: height - 1]
    return "".join(line + "\n" for line in lines)


def _lines(console: Console, parts: list[RenderableType]) -> list[str]:
    with console.capture() as captured:
        console.print(Group(*parts), end="")
    return captured.get().splitlines()


def _head(view: View, width: int, unicode: bool) -> list[RenderableType]:
    read = view.reading
    title = Text.assemble((view.name, "bold"), "  ", (view.says, "bold green"))
    parts: list[RenderableType] = [title]
    if read.steps:
        long, done = min(width, 60), min(read.step, read.steps)
        full = long * done // read.steps
        bar: RenderableType = Text("#" * full + "-" * (long - full))
        if unicode:
            bar = Padding(ProgressBar(read.steps, done, long), expand=False)  # a line of its own
        parts.append(bar)
    if view.figures:
        parts.append(Text("  ".join(f"{name} {text}" for name, text in view.figures)))
    return parts


def _ranks(view: View, most: int, wide: bool, unicode: bool) -> list[RenderableType]:
    """A line for each rank; where there are too many, those first that wait or do not answer."""
    if not view.ranks:
        return []
    ranks, note = list(view.ranks), []
    if len(ranks) > most:
        usual = ("computes", "communicates")
        ranks = sorted(ranks, key=lambda rank: (rank.state in usual, rank.rank))
        note = [Text(f"and {len(ranks) - most + 1} more ranks")]
        ranks = ranks[: most - 1]
    table = Table(box=None, pad_edge=False, show_edge=False, expand=True)
    own = ("a step", "memory") if wide else ()
    overflow: OverflowMethod = "ellipsis" if unicode else "crop"
    for name in ("rank", "state", "for", *own):
        table.add_column(name, no_wrap=True, overflow=overflow)
    table.add_column("its last operation", no_wrap=True, overflow=overflow, ratio=1)
    for each in ranks:
        awaited = "" if each.awaits is None else f"rank {each.awaits}"
        state = Text(each.state, COLOURS.get(each.state, ""))
        figures = (each.spent, each.memory) if wide else ()
        table.add_row(str(each.rank), state, awaited, *figures, Text(each.doing))
    return [table, *note]
