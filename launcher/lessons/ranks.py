"""Ranks of an exercise: threads of this process, with a `Group` between them that names mistakes.

The group's face and what its collectives do with their arrays are `ringlet.comm`'s own; only the
way between the ranks is another. As all ranks are in one process it is known at once when they call
different things, or wait for each other for ever.
"""

import math
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import reduce
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from ringlet.comm import Group
from ringlet.comm.arrays import REDUCTIONS, Array, check_array, check_out, parts
from ringlet.comm.calls.kinds import Kind, Kinds
from ringlet.comm.group import OPTIONS
from ringlet.comm.protocols import Program, Task
from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import Signature, signature_of
from ringlet.launcher.lessons.wrong import Wrong
from ringlet.runtime.device_collectives import Ready, Then

T = TypeVar("T")


class Stopped(BaseException):
    """Another rank has failed: a rank that waits ends, whatever errors its program catches."""


class Meeting:
    """What the ranks share: what each has called and sent, and what each waits for."""

    def __init__(self, size: int) -> None:
        self.size, self.changed = size, threading.Condition()
        self.errors: dict[int, BaseException] = {}
        self.doing: dict[int, str] = {}
        self.calls: defaultdict[int, dict[int, tuple[Signature, Array]]] = defaultdict(dict)
        self.mail: defaultdict[tuple[int, int, int], deque[Array]] = defaultdict(deque)
        self._waiting: dict[int, Callable[[], bool]] = {}
        self._ended = 0

    def wait(self, rank: int, what: str, ready: Callable[[], bool]) -> None:
        """Wait until something is ready; the lock is held."""
        self._waiting[rank], self.doing[rank] = ready, what
        self.changed.notify_all()
        while not ready():
            self._check_stuck()
            if self.errors:
                raise Stopped
            self.changed.wait()
        del self._waiting[rank], self.doing[rank]

    def end(self, rank: int, error: BaseException | None = None) -> None:
        """A rank's program has ended."""
        with self.changed:
            self._waiting.pop(rank, None)
            if error is None:
                self._ended += 1
                self.doing[rank] = "has ended"
                self._check_stuck()
            elif not isinstance(error, Stopped):
                self.errors[rank] = error
            self.changed.notify_all()

    def _check_stuck(self) -> None:
        if self.errors or len(self._waiting) + self._ended < self.size:
            return
        if self._waiting and not any(ready() for ready in self._waiting.values()):
            doing = "; ".join(f"rank {rank} {self.doing[rank]}" for rank in range(self.size))
            self.errors[0] = Wrong(f"{counted(self.size, 'rank')}: nobody can go on: {doing}")
            self.changed.notify_all()


class LessonGroup(Group):
    """One rank's view of the group. `made` are the calls and sends that this rank has made."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.timeout = rank, meeting.size, math.inf
        self.made: list[Signature] = []
        self._meeting, self._met = meeting, 0
        # What `ringlet.comm.calls.collectives` asks of a call:
        self._kinds = Kinds(self.size, self)
        self.channel = SimpleNamespace(ranks=range(self.size), index=rank, kinds=self._kinds)
        self.signature = Signature("", "", (), "")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the group of an exercise has no {name}: it has comm.Group's messages and collectives"
        )

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(range(self.size))

    @property
    def shares_memory(self) -> bool:
        return False

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        return np.empty(shape, dtype)

    def isend(self, x: Array, dst: int, tag: int = 0, *, timeout: float | None = None) -> Any:
        check_array(x)
        self._peer(dst)
        with self._meeting.changed:
            self.made.append(signature_of("send", x.dtype, x.shape)._replace(detail=f"to {dst}"))
            self._meeting.mail[self.rank, dst, tag].append(x.copy())
            self._meeting.changed.notify_all()
        return Ready(x)

    def irecv(
        self, src: int, tag: int = 0, *, out: Array | None = None, timeout: float | None = None
    ) -> Any:
        self._peer(src)
        return Then(SimpleNamespace(wait=lambda: self._receive(src, tag)), lambda x: _into(out, x))

    def way(self, operation: str, name: str) -> tuple["LessonGroup", str]:
        """What runs an operation; a Chooser's method."""
        return self, name

    def run(self, call: Any, task: Task, source: Array, result: Array) -> Program:
        """Meet the others, and write this rank's result; a Transport's program."""
        yield from ()
        every, rank, size = self._meet(self.signature, source), self.rank, self.size
        name = task.operation
        if name in ("all_reduce", "reduce_scatter", "reduce"):
            total = reduce(REDUCTIONS[task.op], every)
            total = total / size if task.op == "mean" else total
            if name != "reduce" or rank == task.root:
                result[...] = parts(total, size)[rank] if name == "reduce_scatter" else total
        elif name == "broadcast":
            result[...] = every[task.root]
        elif name == "scatter":
            result[...] = parts(every[task.root], size)[rank]
        elif name == "all_to_all":
            result[...] = np.concatenate([parts(each, size)[rank] for each in every])
        elif name == "all_gather" or (name == "gather" and rank == task.root):
            result[...] = np.concatenate(every)

    def learn(self, call: Any, task: Task) -> Program:
        """What the root's scatter is; a Transport's program."""
        yield from ()
        self._meet(self.signature, np.empty(0))
        return self._meeting.calls[self._met][task.root][0]

    def _call(self, kind: Kind, body: Any, arguments: Any, options: Any) -> Any:
        if unknown := options.keys() - OPTIONS:
            raise TypeError(f"{kind.signature.operation} takes no argument {', '.join(unknown)}")
        self.signature = kind.signature
        program = body(self, kind, *arguments)
        try:
            while True:
                next(program)
        except StopIteration as end:
            return Ready(end.value) if options.get("async_op") else end.value

    def _meet(self, signature: Signature, x: Array) -> Sequence[Array]:
        """Every rank's array, once all have made this call."""
        meeting = self._meeting
        with meeting.changed:
            self._met += 1
            here = meeting.calls[self._met]
            self.made.append(signature)
            for rank, (other, _) in here.items():
                if _agreed(signature) != _agreed(other):
                    both = sorted(((rank, other), (self.rank, signature)))
                    calls = "; ".join(f"rank {each} calls {what}" for each, what in both)
                    raise Wrong(f"{self.size} ranks: collective {self._met} differs: {calls}")
            here[self.rank] = signature, x.copy()
            what = f"waits for the others in its collective {self._met}, {signature}"
            meeting.wait(self.rank, what, lambda: len(here) == self.size)
            return [here[rank][1] for rank in range(self.size)]

    def _receive(self, src: int, tag: int) -> Array:
        queue = self._meeting.mail[src, self.rank, tag]
        with self._meeting.changed:
            self._meeting.wait(self.rank, f"waits for a message of rank {src}", lambda: bool(queue))
            return queue.popleft()

    def _peer(self, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise Wrong(f"{counted(self.size, 'rank')}: rank {self.rank} talks to a rank {rank}")


def on_ranks(size: int, program: Callable[[LessonGroup], T]) -> list[tuple[T, list[Signature]]]:
    """Run a program on every rank; returns each rank's result, and the calls that it made.

    Raises what the first of the failing ranks raises, with a note that names it, and Wrong where
    ranks call different things or wait for each other for ever.
    """
    meeting, results = Meeting(size), dict[int, tuple[T, list[Signature]]]()

    def one(rank: int) -> None:
        group, error = LessonGroup(rank, meeting), None
        try:
            results[rank] = program(group), group.made
        except BaseException as problem:
            error = problem
            if size > 1 and not isinstance(problem, Wrong | Stopped):
                problem.add_note(f"on rank {rank} of {size}")
        meeting.end(rank, error)

    # Daemons: a rank that loops for ever does not keep the process.
    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if meeting.errors:
        raise meeting.errors[min(meeting.errors)]
    return [results[rank] for rank in range(size)]


def _agreed(signature: Signature) -> tuple[Any, ...]:
    """What the ranks must agree on: of a scatter only its root knows the array."""
    return signature[::3] if signature.operation == "scatter" else signature


def _into(out: Array | None, x: Array) -> Array:
    if out is None:
        return x
    check_out(out, x.shape, x.dtype)
    out[...] = x
    return out
