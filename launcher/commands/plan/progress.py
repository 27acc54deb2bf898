"""A search, with its progress on a terminal."""

import sys
import time

from ringlet.launcher.errors import user_errors
from ringlet.launcher.supervisor.output import Screen
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.search import Search, search
from ringlet.runtime.planning.settings import Request

EVERY_S = 0.2
"""Between two states of the live line."""


def searching(request: Request, objective: str = "time") -> Search:
    """Search, and show how far it is if stderr is a terminal; raises UserError."""
    screen, shown = Screen(sys.stderr), time.monotonic()

    def progress(done: int, of: int) -> None:
        nonlocal shown
        if screen.live and time.monotonic() >= shown + EVERY_S:
            shown = time.monotonic()
            screen.status(f"{done:,} of {of:,} settings" if of else f"{done:,} settings listed")

    try:
        with user_errors(ClusterError):
            return search(request, objective, progress)
    finally:
        screen.status("")
