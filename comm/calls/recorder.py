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
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from ringlet.comm.arrays import dtype_named
from ringlet.comm.signature import Signature, size_text
from ringlet.comm.sockets.wire import COLLECTIVE

HISTORY = 64
"""How many past collectives of a group are remembered, and how many of its transfers."""

SHOWN, SHOWN_WITH_ERROR = 40, 8

Record: TypeAlias = list[Any]
"""[sequence, signature, stream, peer, group, issued, ended, error, call]: times are in monotonic
seconds, and the call is there while it is in flight."""

SEQUENCE, SIGNATURE, STREAM, PEER, GROUP, ISSUED, ENDED, ERROR, CALL = range(9)


def new_record(sequence: int, signature: Signature, stream: int, peer: int, group: str) -> Record:
    """The record of a call that begins now."""
    return [sequence, signature, stream, peer, group, time.monotonic(), None, "", None]


class Recorder:
    """One process's histories. `groups` names the groups by their ids."""

    def __init__(self, rank: int, groups: dict[str, str]) -> None:
        self._rank, self._groups = rank, groups
        self._histories: list[weakref.ref[deque[Record]]] = []  # each group keeps its own

    def history(self) -> deque[Record]:
        """A new history."""
        new: deque[Record] = deque(maxlen=HISTORY)
        self._histories = [kept for kept in self._histories if kept() is not None]
        self._histories.append(weakref.ref(new))
        return new

    def text(self, most: int = SHOWN) -> str:
        """The last operations, one on each line, the newest last."""
        now = time.monotonic()
        lines = [self._line(record, now) for record in self._records()[-most:]]
        head = f"rank {self._rank}, its last operations, the newest at the end:"
        return "\n  ".join([head, *(lines or ["none"])])

    def last(self) -> str:
        """The operation that began last, in one line."""
        records = self._records()
        return self._line(records[-1], time.monotonic()) if records else "no operation yet"

    def in_flight(self) -> tuple[bool, int | None]:
        """Whether operations are in flight, and a rank that one of them waits for."""
        calls = [call for record in self._records() if (call := record[CALL]) is not None]
        waits = [wait.awaited for call in calls if (wait := call.waiting_for) is not None]
        return bool(calls), next((rank for rank in waits if rank is not None), None)

    def _records(self) -> list[Record]:
        """What is remembered, in the order of beginning."""
        records = [record for kept in self._histories for record in list(kept() or ())]
        return sorted(records, key=lambda record: record[ISSUED])

    def _line(self, record: Record, now: float) -> str:
        sequence, signature, stream, peer, group = record[:ISSUED]
        words = [f"{signature.operation} #{sequence}"]
        if stream != COLLECTIVE:
            way = "to" if signature.operation == "send" else "from"
            words.append(f"{way} rank {peer}" + (f", tag {stream}" if stream else ""))
        if signature.dtype:
            words.append(f"of {signature.shape} {dtype_named(signature.dtype)}")
        if signature.detail:
            words.append(f"({signature.detail})")
        size = _nbytes(signature)
        words += [f"{size_text(size)}"] if size else []
        words += [f"in group {self._groups.get(group, group)}"]
        return f"{' '.join(words)}: {self._state(record, now)}"

    def _state(self, record: Record, now: float) -> str:
        issued, ended, error, call = record[ISSUED:]
        age = f"begun {now - issued:.3g} s ago"
        if error:
            return f"{error}, {age}"
        if ended is not None:
            return f"done in {(ended - issued) * 1e3:.3g} ms, {age}"
        remarks = "" if call is None else call.remarks()
        return f"in flight, {age}" + (f", {remarks}" if remarks else "")


def _nbytes(signature: Signature) -> int:
    if not signature.dtype:
        return 0
    return math.prod(signature.shape) * dtype_named(signature.dtype).itemsize


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
