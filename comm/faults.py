"""Injected faults, for tests of what a program does when its peers fail.

kill rank 2 at its third all_reduce         before it begins
stop rank 0 in its first barrier            where it first waits for the others (SIGSTOP)
close rank 1 after its second all_gather    its connections, as a network that breaks does
delay rank 1 at its second broadcast by 0.5 s

And to the messages that a rank sends in a call, where there are messages:

drop rank 1 at its 12th all_gather          none of them leaves
corrupt rank 0 at its first reduce_scatter  one bit of the first one's array changes
garble rank 0 at its first reduce           one bit of its header
truncate rank 3 at its second all_to_all    its last byte is missing
duplicate rank 2 at its first scatter       it leaves twice
"""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip

OF_MESSAGES = ("drop", "corrupt", "garble", "truncate", "duplicate")
"""Faults of messages; shared memory has none."""

OF_PROCESSES = ("kill", "stop", "close", "delay")

TRANSFERS = ("send", "recv")
"""They have no middle: faults happen before they begin, or to their messages."""

_FORM = re.compile(
    rf"({'|'.join(OF_PROCESSES + OF_MESSAGES)}) rank (\d+) (at|in|after) its (\w+) (\w+)"
    r"(?: by (\d+\.?\d*) ?s)?"
)

Result = TypeVar("Result")


class Fault(NamedTuple):
    """What happens to a rank at, in or after its `number`-th call of an operation (from 1)."""

    kind: str
    rank: int
    place: str
    number: int
    operation: str
    seconds: float


def parse_fault(text: str) -> Fault:
    """The fault that the text describes; raises ValueError if it describes none."""
    match = _FORM.fullmatch(text.strip())
    if match is not None:
        kind, rank, place, ordinal, operation, seconds = match.groups()
        count, timed = _ordinal(ordinal), (kind == "delay") == (seconds is not None)
        has_middle = kind not in OF_MESSAGES and operation not in TRANSFERS
    if match is None or count < 1 or not timed or not (place == "at" or has_middle):
        raise ValueError(
            f"{text!r} is not a fault: write `kill rank 2 at its third all_reduce` (or in, after; "
            f"{', '.join(OF_PROCESSES[1:3] + OF_MESSAGES)}), or `delay rank 1 at its first barrier "
            "by 0.5 s`"
        )
    return Fault(kind, int(rank), place, count, operation, float(seconds or 0))


def _ordinal(word: str) -> int:
    if word in ORDINALS:
        return ORDINALS.index(word) + 1
    number = re.fullmatch(r"(\d+)(?:st|nd|rd|th)", word)
    return int(number[1]) if number else 0


class Faults:
    """One rank's faults, by its calls from now on. `addresses`: both ends of its connections."""

    def __init__(self, faults: Iterable[Fault], rank: int, addresses: Collection[str]) -> None:
        self._faults = [fault for fault in faults if fault.rank == rank]
        self._addresses = addresses
        self._calls: Counter[str] = Counter()
        self._on_messages = ""
        self._lock = threading.Lock()

    def called(self, operation: str) -> int:
        """This rank calls an operation; returns the number of the call, from 1."""
        with self._lock:
            self._calls[operation] += 1
            count = self._calls[operation]
        self._on_messages = ""
        self._strike("at", operation, count)
        return count

    def through(
        self, operation: str, count: int, program: Generator[Any, Any, Result]
    ) -> Generator[Any, Any, Result]:
        """A call's program, with the faults in it (at its first wait) and after it."""
        sent, places = None, ["in", "after"]
        while True:
            try:
                awaited = program.send(sent)
            except StopIteration as stop:
                for place in places:
                    self._strike(place, operation, count)
                return stop.value
            if len(places) == 2:
                self._strike(places.pop(0), operation, count)
            sent = yield awaited

    def _strike(self, place: str, operation: str, count: int) -> None:
        for fault in self._faults:
            if (fault.place, fault.operation, fault.number) != (place, operation, count):
                continue
            if fault.kind in OF_MESSAGES:
                self._on_messages = fault.kind
            elif fault.kind == "delay":
                time.sleep(fault.seconds)
            elif fault.kind == "close":
                cut(self._addresses)
            else:
                os.kill(os.getpid(), signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)

    def sent(self, head: bytes, data: Any) -> list[tuple[bytes, Any]]:
        """What is sent instead of a message: headers, each with the bytes that follow it."""
        kind = self._on_messages
        if kind == "drop":
            return []
        if not kind or (kind in ("corrupt", "truncate") and not len(data)):
            return [(head, data)]
        self._on_messages = ""
        if kind == "duplicate":
            return [(head, data), (head, data)]
        if kind == "garble":
            return [(_flipped(head), data)]
        return [(head, _flipped(data) if kind == "corrupt" else bytes(data)[:-1])]


def _flipped(data: Any) -> bytes:
    """A copy with one bit in the middle changed."""
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 0x10
    return bytes(changed)


def cut(addresses: Collection[str]) -> None:
    """Break this process's connections that have an end at one of the addresses."""
    for entry in Path("/proc/self/fd").iterdir():
        with (
            contextlib.suppress(OSError),  # not a socket, or closed by now
            socket.socket(fileno=os.dup(int(entry.name))) as connection,
        ):
            ends = (connection.getsockname(), connection.getpeername())
            if any(_address(connection.family, end) in addresses for end in ends):
                connection.shutdown(socket.SHUT_RDWR)


def _address(family: int, end: Any) -> str:
    if family == socket.AF_UNIX:
        return f"ipc://{end}"
    return f"tcp://{end[0]}:{end[1]}" if family == socket.AF_INET else ""
