"""Faults to order, for tests of what a program does when its peers fail.

kill rank 2 at its third all_reduce
stop rank 0 at its first barrier
delay rank 1 at its second broadcast by 0.5 s
drop rank 1 at its 12th all_gather          what it sends in this call never leaves
corrupt rank 0 at its first reduce_scatter  one bit of the first message that it sends
"""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ringlet.comm.wire import Array

ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip

OF_MESSAGES = ("drop", "corrupt")
"""Faults that need messages: shared memory has none."""

_FORM = re.compile(
    r"(kill|stop|delay|drop|corrupt) rank (\d+) at its (\w+) (\w+)(?: by ([\d.]+) ?s)?"
)


class Fault(NamedTuple):
    """What happens to which rank, at its `number`-th call of a collective (from 1)."""

    kind: str
    rank: int
    number: int
    operation: str
    seconds: float


def parse_fault(text: str) -> Fault:
    """The fault that the text describes; raises ValueError for a text that describes none."""
    match = _FORM.fullmatch(text.strip())
    count = _ordinal(match[3]) if match else 0
    if match is None or count < 1 or (match[1] == "delay") != (match[5] is not None):
        raise ValueError(
            f"{text!r} is no fault; as in `kill rank 2 at its third all_reduce` (or stop, drop, "
            "corrupt), or `delay rank 1 at its first barrier by 0.5 s`"
        )
    return Fault(match[1], int(match[2]), count, match[4], float(match[5] or 0))


def _ordinal(word: str) -> int:
    if word in ORDINALS:
        return ORDINALS.index(word) + 1
    number = re.fullmatch(r"(\d+)(?:st|nd|rd|th)", word)
    return int(number[1]) if number else 0


class Faults:
    """One rank's faults. Calls are counted from here on."""

    def __init__(self, faults: Iterable[Fault], rank: int) -> None:
        self._faults = [fault for fault in faults if fault.rank == rank]
        self._calls: Counter[str] = Counter()
        self._on_messages = ""
        self._lock = threading.Lock()

    def called(self, operation: str) -> None:
        """This rank calls a collective."""
        with self._lock:
            self._calls[operation] += 1
            count = self._calls[operation]
        due = [f for f in self._faults if (f.operation, f.number) == (operation, count)]
        self._on_messages = ""
        for fault in due:
            if fault.kind in OF_MESSAGES:
                self._on_messages = fault.kind
            elif fault.kind == "delay":
                time.sleep(fault.seconds)
            else:
                os.kill(os.getpid(), signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)

    def sent(self, payload: Array) -> Array | None:
        """What leaves in place of the payload; None if nothing does."""
        if self._on_messages == "drop":
            return None
        if self._on_messages == "corrupt" and payload.nbytes:
            self._on_messages = ""
            payload = payload.copy()
            payload.view("u1").reshape(-1)[payload.nbytes // 2] ^= 0x10
        return payload
