"""The progress of a build on a terminal: a bar, the speed, the tokens so far."""

import sys
import time
from typing import Self

from ringlet.launcher.supervisor.output import Screen

WIDTH = 24
EVERY_S = 0.2
"""Between two states of the live line."""


class BuildProgress:
    """Called as `runtime.text.build` does; shows a live line on stderr, if that is a terminal,
    until the end of the block."""

    def __init__(self) -> None:
        self._screen = Screen(sys.stderr)
        self._phase, self._shown = "", 0.0
        self._since, self._first = time.monotonic(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._screen.status("")

    def __call__(self, phase: str, read: int, of: int, tokens: int) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._since, self._first = phase, now, read
        if self._screen.live and now >= self._shown + EVERY_S:
            self._shown = now
            self._screen.status(self._text(read, of, tokens, now))

    def _text(self, read: int, of: int, tokens: int, now: float) -> str:
        speed = (read - self._first) / max(now - self._since, 1e-3)
        text = f"{self._phase}  {read / 1e6:,.1f} MB  {speed / 1e6:.1f} MB/s"
        if of:
            full = min(WIDTH, WIDTH * read // of)
            bar = "#" * full + "." * (WIDTH - full)
            left = int((of - read) / max(speed, 1))
            text = (
                f"{self._phase}  [{bar}] {100 * read // of}%  {speed / 1e6:.1f} MB/s  "
                f"{left // 60}:{left % 60:02d} left"
            )
        return f"{text}  {tokens:,} tokens" if tokens else text
