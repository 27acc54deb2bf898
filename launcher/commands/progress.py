"""How far something is that takes more than a moment: one live line, and on a terminal alone.

The line is the screen's own (supervisor/output.py), which does not wait for who reads it.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from ringlet.launcher.supervisor.output import Screen

SOON_S = 1.0
"""What ends sooner shows nothing."""

EVERY_S = 0.2
"""Between two states of the line."""

BAR = 24
"""Characters of a bar."""

At: TypeAlias = Callable[[int, int, str], None]
"""Tells how many are done, of how many (0: that is not known), and of what."""


@contextlib.contextmanager
def progress(what: str, screen: Screen | None = None, seconds: float = 0.0) -> Iterator[At]:
    """Show that `what` goes on for as long as the block does, on the screen, or stderr.

    The block gets a function to tell how far it is. If it does not, only the time is shown, of
    about so many `seconds` if that is known.
    """
    live = Screen(sys.stderr) if screen is None else screen
    line, ended = _Line(what, seconds), threading.Event()

    def show() -> None:
        wait = SOON_S
        while not ended.wait(wait):
            live.status(line.text(live.unicode))
            wait = EVERY_S

    thread = threading.Thread(target=show, name="ringlet-progress-line", daemon=True)
    if live.live:
        thread.start()
    try:
        yield line.at
    finally:
        ended.set()
        if live.live:
            thread.join()
            live.status("")


class _Line:
    def __init__(self, what: str, seconds: float) -> None:
        self._what, self._seconds, self._began = what, seconds, time.monotonic()
        self._far = 0, 0, ""

    def at(self, done: int, of: int, noun: str) -> None:
        self._far = done, of, noun

    def text(self, unicode: bool) -> str:
        passed = time.monotonic() - self._began
        done, of, noun = self._far
        share = done / of if of else passed / self._seconds if self._seconds else None
        words = [self._what]
        if share is not None:
            full = round(BAR * min(share, 1.0))
            done_mark, open_mark = "━─" if unicode else "#-"
            words.append(done_mark * full + open_mark * (BAR - full))
        if noun:
            words.append(f"{done:,} of {of:,} {noun}" if of else f"{done:,} {noun}")
        return "  ".join([*words, f"{int(passed) // 60}:{int(passed) % 60:02d}"])
