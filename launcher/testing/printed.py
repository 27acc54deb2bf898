"""What ranks write, shown by the process that started them: whole lines, each after its rank."""

import contextlib
import os
import selectors
import sys
import threading
import time
from functools import partial
from typing import IO

from ringlet.launcher.supervisor.output import Pipe

LAST_WORDS_S = 1.0
"""How long ranks that have ended, or what they have started, may go on to write."""


class Printed:
    """The pipes of all ranks, read on a thread, so that ranks never wait for this process's own
    work. Lines go to sys.stdout and sys.stderr, which in notebooks belong to the cell."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._streams: list[IO[bytes]] = []
        self._ends: list[int] = []
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def pipes(self, rank: int) -> tuple[int, int]:
        """The ends that take the rank's stdout and stderr."""
        for name in ("stdout", "stderr"):
            ours, theirs = os.pipe()
            stream, show = os.fdopen(ours, "rb", buffering=0), partial(_show, name, rank)
            pipe = Pipe(stream, getattr(sys, name), show)
            self._streams.append(stream)
            self._selector.register(pipe, selectors.EVENT_READ)
            self._ends.append(theirs)
        return self._ends[-2], self._ends[-1]

    def begin(self) -> None:
        """Show what comes; called once the ranks have their ends."""
        self._thread = threading.Thread(target=self._read, name="ringlet-printed", daemon=True)
        self._thread.start()
        self._close_ends()

    def _close_ends(self) -> None:
        while self._ends:
            os.close(self._ends.pop())

    def close(self) -> None:
        """Show the last words of ranks that have ended."""
        self._closing.set()
        self._close_ends()
        if self._thread is not None:
            self._thread.join()
        self._selector.close()
        for stream in self._streams:
            stream.close()

    def _read(self) -> None:
        end = float("inf")
        while self._selector.get_map() and time.monotonic() < end:
            ready = self._selector.select(0.2)
            for key, _ in ready:
                pipe = key.fileobj
                assert isinstance(pipe, Pipe)
                if pipe.read() == b"":
                    self._selector.unregister(pipe)
            if self._closing.is_set():
                end = min(end, time.monotonic() + (LAST_WORDS_S if ready else 0.0))


def _show(name: str, rank: int, text: str) -> None:
    stream = getattr(sys, name)
    line = f"rank {rank}: {text}\n"
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or not there
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
