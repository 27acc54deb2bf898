"""The flight recorder: what this rank did last, for when something goes wrong.

Every call leaves a record in its group's history. Records are lists, since the shortest all-reduce
takes a few microseconds. They are read only when a CommError is raised, which shows them in its
traceback, or when the process gets SIGUSR1.
"""

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ringlet.comm.signature import Signature, size_text
from ringlet.comm.sockets.wire import COLLECTIVE

HISTORY = 64
"""How many past collectives of a group are remembered, and how many of its transfers."""

SHOWN, SHOWN_WITH_ERROR = 40, 8

Record: TypeAlias = list[Any]
"""[sequence, signature, stream, peer, issued, ended, error, operation]: times are in monotonic
seconds, and the operation is there while it is in flight."""

SEQUENCE, SIGNATURE, STREAM, PEER, ISSUED, ENDED, ERROR, OPERATION = range(8)


class Entry(NamedTuple):
    """A record and where it stands."""

    group: str
    record: Record


class Recorder:
    """One process's histories. `groups` names the groups by their ids."""

    def __init__(self, rank: int, groups: dict[str, str]) -> None:
        self._rank, self._groups = rank, groups
        self._histories: list[tuple[str, deque[Record]]] = []

    def history(self, group: str) -> deque[Record]:
        """A new history of a group."""
        kept: deque[Record] = deque(maxlen=HISTORY)
        self._histories.append((group, kept))
        return kept

    def text(self, most: int = SHOWN) -> str:
        """The last operations, one on each line, the newest last."""
        now = time.monotonic()
        lines = [self._line(*entry, now) for entry in self._entries()[-most:]]
        head = f"rank {self._rank}, its last operations, the newest at the end:"
        return "\n  ".join([head, *(lines or ["none"])])

    def last(self) -> str:
        """The operation that began last, in one line."""
        entries = self._entries()
        return self._line(*entries[-1], time.monotonic()) if entries else "no operation yet"

    def _entries(self) -> list[Entry]:
        """What is remembered, in the order of beginning."""
        entries = [Entry(group, record) for group, kept in self._histories for record in list(kept)]
        return sorted(entries, key=lambda entry: entry.record[ISSUED])

    def _line(self, group: str, record: Record, now: float) -> str:
        sequence, signature, stream, peer = record[:ISSUED]
        words = [f"{signature.operation} #{sequence}"]
        if stream != COLLECTIVE:
            way = "to" if signature.operation == "send" else "from"
            words.append(f"{way} rank {peer}" + (f", tag {stream}" if stream else ""))
        if signature.dtype:
            words.append(f"of {signature.shape} {np.dtype(signature.dtype).name}")
        if signature.detail:
            words.append(f"({signature.detail})")
        size = _nbytes(signature)
        words += [f"{size_text(size)}"] if size else []
        words += [f"in group {self._groups.get(group, group)}"]
        return f"{' '.join(words)}: {self._state(record, now)}"

    def _state(self, record: Record, now: float) -> str:
        issued, ended, error, operation = record[ISSUED:]
        age = f"begun {now - issued:.3g} s ago"
        if error:
            return f"{error}, {age}"
        if ended is not None:
            return f"done in {(ended - issued) * 1e3:.3g} ms, {age}"
        remarks = "" if operation is None else operation.remarks()
        return f"in flight, {age}" + (f", {remarks}" if remarks else "")


def _nbytes(signature: Signature) -> int:
    if not signature.dtype:
        return 0
    return math.prod(signature.shape) * np.dtype(signature.dtype).itemsize


def find(history: deque[Record], sequence: int) -> Record | None:
    """The collective with this number; recent ones are the likeliest."""
    for record in reversed(history):
        if record[SEQUENCE] == sequence:
            return record
    return None


def show_on_signal(text: Callable[[], str]) -> None:
    """Write `text()` to stderr at each SIGUSR1, which otherwise ends a process.

    Does nothing where the program has its own handler, or outside the main thread.
    """

    def show(number: int, frame: Any) -> None:
        os.write(2, f"{text()}\n".encode())

    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, show)
