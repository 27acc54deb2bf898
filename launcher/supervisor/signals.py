"""Signals: what a launcher inherits of them, and how it takes them."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

NEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
"""Signals that launchers and workers live on. An ignored SIGCHLD loses exit codes (wait(2))."""


def reset_signals() -> None:
    """Undo what whoever started this process has blocked, and ignored of the NEEDED; shells ignore
    SIGINT in background jobs. An ignored SIGHUP stays so: that is nohup's wish."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in NEEDED:
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupt else signal.SIG_DFL)
    if os.getpid() == 1:  # of a container: the kernel drops what process 1 does not handle
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextlib.contextmanager
def noted_signals(*numbers: signal.Signals) -> Iterator[list[signal.Signals]]:
    """A list that gets these signals when they come, instead of what they do otherwise. Those that
    are ignored stay ignored."""
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))

    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
