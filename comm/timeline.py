"""The timeline: what this rank does and when, in files that outlive the process.

With RINGLET_TRACE, which `ringlet run --trace` sets to a folder, each rank keeps two files there.
rank-0.ring holds entries of one size, the newest in the place of the oldest; it is mapped into
memory, so that an entry takes a microsecond, and a killed process leaves what it has recorded.
rank-0.facts says in lines of JSON what the numbers in the entries stand for. Without the variable
`current` is None, and nothing is recorded. runtime/tracing makes one picture of all ranks' files.
"""

import contextlib
import functools
import itertools
import json
import mmap
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from ringlet.comm.errors import CommError

P = ParamSpec("P")
R = TypeVar("R")

FOLDER = "RINGLET_TRACE"
FORMAT = 1
"""Of both files; those with another number are not read."""

ENTRY = struct.Struct("<ddiiiiqqq")
"""start, end (seconds of the monotonic clock), kind, thread, name, peer (a rank, or -1), and three
numbers. An entry that starts at 0 is empty."""

ENTRIES = 1 << 17
"""In a ring: 7 MiB, some hundreds of steps."""

MOST_NAMES = 1 << 16
"""Of kinds of calls; further ones have no name."""

SPAN, CALL, TRANSFER, WAIT, SENT, ARRIVED = range(1, 7)
"""What an entry is, and what its three numbers are:

| kind | | numbers |
|---|---|---|
| SPAN | a part of the program, by name | a step's number, or a stage; micro-batch |
| CALL | a collective, from its start | its number in the group; when it was issued, in ns; bytes |
| TRANSFER | a send or a receive, from its issue | its number; tag; bytes |
| WAIT | a thread waits for a call | its number; tag (-1: a collective) |
| SENT, ARRIVED | a message is queued, or has come | its call's number; `message_place`; bytes |
"""

IN_BACKGROUND = -1
"""The thread of what no thread of the program stands in."""

current: "Timeline | None" = None
"""This process's."""


class Timeline:
    """The files of one rank. Any thread may add entries. Raises CommError if they cannot be made.

    `host` is what tells this rank's host from others.
    """

    def __init__(self, folder: Path, rank: int, size: int, generation: int, host: str) -> None:
        self._numbers, self._pack = itertools.count(), ENTRY.pack_into
        self._lock = threading.Lock()
        self._threads: dict[int, int] = {}
        self._names: dict[Hashable, int] = {}
        self.paths = folder / f"rank-{rank}.facts", folder / f"rank-{rank}.ring"
        try:
            for path in self.paths:
                path.unlink(missing_ok=True)  # of an earlier start, which may have it mapped
            self._facts = os.open(self.paths[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            weakref.finalize(self, os.close, self._facts)
            with self.paths[1].open("x+b") as file:
                file.truncate(ENTRIES * ENTRY.size)
                if hasattr(os, "posix_fallocate"):  # a full disk shows now, not as SIGBUS
                    os.posix_fallocate(file.fileno(), 0, ENTRIES * ENTRY.size)
                self._ring = mmap.mmap(file.fileno(), ENTRIES * ENTRY.size)
        except OSError as error:
            raise CommError(f"rank {rank} cannot record to {folder}: {error.strerror}") from error
        where = {"host": os.uname().nodename, "machine": host, "pid": os.getpid()}
        self.fact(format=FORMAT, rank=rank, size=size, generation=generation, **where)
        self.thread()

    def add(
        self,
        start: float,
        end: float,
        kind: int,
        thread: int,
        name: int,
        peer: int = -1,
        a: int = -1,
        b: int = -1,
        c: int = -1,
    ) -> None:
        """Add an entry: see ENTRY."""
        place = next(self._numbers) % ENTRIES * ENTRY.size
        self._pack(self._ring, place, start, end, kind, thread, name, peer, a, b, c)

    def name(self, key: Hashable, describe: Callable[[], dict[str, Any]]) -> int:
        """The number that stands for the key, which is described the first time."""
        number = self._names.get(key)
        if number is None:
            with self._lock:
                if len(self._names) >= MOST_NAMES:
                    return -1
                number = self._names.setdefault(key, len(self._names))
            self.fact(name=number, **describe())
        return number

    def thread(self) -> int:
        """The number of the calling thread; the one that joined the world has 0."""
        number = self._threads.get(threading.get_ident())
        if number is None:
            with self._lock:
                number = self._threads.setdefault(threading.get_ident(), len(self._threads))
            self.fact(thread=number, text=threading.current_thread().name)
        return number

    def fact(self, **facts: Any) -> None:
        """Store something for whoever reads the files. A full disk ends no training."""
        with contextlib.suppress(OSError):
            os.write(self._facts, json.dumps(facts).encode() + b"\n")


class Span:
    """Records how long a `with` block takes, also if it raises."""

    def __init__(self, timeline: Timeline, name: str, *numbers: int) -> None:
        self._timeline, self._name, self._numbers = timeline, name, numbers

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end, timeline, name = time.monotonic(), self._timeline, self._name
        number = timeline.name(name, lambda: {"span": name})
        timeline.add(self._start, end, SPAN, timeline.thread(), number, -1, *self._numbers)


_NOTHING = contextlib.nullcontext()


def span(
    name: str, number: int = -1, micro_batch: int = -1
) -> contextlib.AbstractContextManager[None]:
    """Record a `with` block as a part of the program: `with timeline.span("step", 17):`.

    What is measured is measured by spans of the name "step", with the step's number. In others
    `number` is the stage of a pipeline.
    """
    return _NOTHING if current is None else Span(current, name, number, micro_batch)


def recorded(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Record every call of a function, as `span` does."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if current is None:
                return function(*args, **kwargs)
            with span(name):
                return function(*args, **kwargs)

        return call

    return decorate


def message_place(stream: int, number: int) -> int:
    """A message's stream and its number in its call as one number."""
    return (stream + 1 << 24) + number


def start(rank: int, size: int, generation: int, host: str) -> Timeline | None:
    """Begin to record, if RINGLET_TRACE names a folder. Raises CommError if that is impossible."""
    global current
    if folder := os.environ.get(FOLDER):
        current = Timeline(Path(folder), rank, size, generation, host)
    return current


def stop() -> None:
    """Record nothing more. What another thread adds at this moment still goes into the files."""
    global current
    current = None


os.register_at_fork(after_in_child=stop)  # the files are the parent's
