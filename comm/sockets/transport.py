"""Collectives as messages: the fourth reader of a schedule moves real bytes and yields to wait.

What depends only on the schedule and on the arrays' sizes is made once and kept: on a few bytes the
Python around a message takes longer than the message.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ringlet.comm.arrays import REDUCTIONS, Array, overflow_allowed, parts, working_dtype
from ringlet.comm.protocols import Program, Task
from ringlet.comm.schedules.algorithms import slots_of, steps_of
from ringlet.comm.schedules.choice import Choice
from ringlet.comm.schedules.schedule import (
    SEGMENT_BYTES,
    Copy,
    Receive,
    Reduce,
    Send,
    Step,
    segmented,
)
from ringlet.comm.signature import COMBINING
from ringlet.comm.sockets.arriving import Combine, Sink
from ringlet.comm.sockets.endpoint import ZERO_COPY_BYTES, Endpoint
from ringlet.comm.sockets.messages import MessageCall, Messages, SendWait, departed
from ringlet.comm.sockets.wire import Header

KEPT_SEGMENTS = 16
"""The steps of longer arrays are made anew in each call: beside the work they cost little."""


class Extent(NamedTuple):
    """Where a segment of a slot lies: in which of the arrays, and which elements of it."""

    array: int
    start: int
    stop: int


class MessageStep(NamedTuple):
    """A step on one segment; `source` is Copy's. What is received goes `onward` to these peers."""

    step: Step
    segment: int
    source: int = -1
    onward: tuple[int, ...] = ()


class MessageSteps(NamedTuple):
    """One rank's steps, cut into segments."""

    segments: tuple[Extent, ...]
    steps: tuple[MessageStep, ...]


def make_steps(
    operation: str,
    algorithm: str,
    rank: int,
    size: int,
    root: int,
    per_host: int | None,
    sizes: tuple[int, ...],
    most: int,
) -> MessageSteps:
    """The algorithm on arrays of these sizes, each of which is an equal share of the slots. Sizes,
    and the most that a segment has, are in elements."""
    steps = steps_of(operation, rank, size, root, algorithm, per_host)
    count = slots_of(operation, size, algorithm) // len(sizes)
    slots = [
        _cut(number, start, stop, most)
        for number, elements in enumerate(sizes)
        for start, stop in pairwise(elements * part // count for part in range(count + 1))
    ]
    used = {step.slot for step in steps} | {s.source for s in steps if isinstance(s, Copy)}
    first, segments = dict[int, int](), list[Extent]()
    for slot in sorted(used):
        first[slot] = len(segments)
        segments += slots[slot]
    found = list[MessageStep]()
    for step, number in segmented(steps, lambda slot: len(slots[slot])):
        segment, last = first[step.slot] + number, found[-1] if found else None
        if isinstance(step, Copy):
            found.append(MessageStep(step, segment, first[step.source] + number))
        elif (
            isinstance(step, Send)
            and last is not None
            and last.segment == segment
            and isinstance(last.step, Receive | Reduce)
        ):
            found[-1] = last._replace(onward=(*last.onward, step.peer))
        else:
            found.append(MessageStep(step, segment))
    return MessageSteps(tuple(segments), tuple(found))


kept_steps = lru_cache(maxsize=1024)(make_steps)
"""The same, made once; see KEPT_SEGMENTS."""


def _cut(array: int, start: int, stop: int, most: int) -> list[Extent]:
    """A slot's segments; at least one, even if it is empty."""
    starts = range(start, max(start + 1, stop), most)
    return [Extent(array, at, min(at + most, stop)) for at in starts]


class Sockets:
    """The transport of one group: `group` and `ranks` say where its messages travel."""

    def __init__(
        self, endpoint: Endpoint, group: str, ranks: tuple[int, ...], choice: Choice
    ) -> None:
        self.endpoint, self.group, self.ranks = endpoint, group, ranks
        self.rank, self.size = ranks.index(endpoint.rank), len(ranks)
        self.choice = choice
        self.segment_bytes = SEGMENT_BYTES

    def run(self, call: MessageCall, task: Task, source: Array, result: Array) -> Program:
        """Run the task. When it returns every array may be written again: nothing on its way
        refers to it."""
        operation, rows = task.operation, result.nbytes
        own: list[Array | None]
        if operation in COMBINING:
            yield from self._reduce(call, task, source, result)
        elif operation == "all_to_all":
            yield from self._run(call, task, [source, result], source.nbytes)
        elif operation == "all_gather" or (operation == "gather" and self.rank == task.root):
            yield from self._run(call, task, [result], rows)
        elif operation == "gather" or (operation == "scatter" and self.rank != task.root):
            own = [None] * self.size  # the other slots only pass through
            own[self.rank] = source if operation == "gather" else result
            yield from self._run(call, task, own, rows)
        else:
            yield from self._run(call, task, [source], source.nbytes)

    def _reduce(self, call: MessageCall, task: Task, source: Array, result: Array) -> Program:
        """Operations that combine; float16 sums travel as float32."""
        operation = task.operation
        gets_result = operation != "reduce" or self.rank == task.root
        # Partial results are written where the array is: only the caller's own if it goes there.
        in_place = gets_result and (source is result or np.may_share_memory(source, result))
        data = source.astype(working_dtype(source.dtype, task.op), copy=not in_place)
        yield from self._run(call, task, [data], data.nbytes)
        if not gets_result:
            return
        mine = parts(data, self.size)[self.rank] if operation == "reduce_scatter" else data
        if task.op == "mean":
            np.divide(mine, self.size, out=mine)
        if mine is not result:
            with overflow_allowed():  # a float16 result may be out of range: it is inf
                result[...] = mine

    def learn(self, call: MessageCall, task: Task) -> Program:
        """What the root's scatter is, from the header of the first message to come, which stays
        where it is; what this rank passes on says it too."""
        if self.rank == task.root:
            return call.signature
        name = task.algorithm or self.choice.choose("scatter", 0)
        steps = steps_of("scatter", self.rank, self.size, task.root, name)
        source = next(step.peer for step in steps if isinstance(step, Receive))
        messages = Messages(self.endpoint, self.group, self.ranks, call)
        header: Header = yield from messages.peek(source, lambda h: call.is_repeated(h, 0))
        call.check_header(header, 0)
        return header.signature

    def _run(
        self, call: MessageCall, task: Task, memory: Sequence[Array | None], nbytes: int
    ) -> Program:
        """The algorithm for `nbytes` on 1-D arrays that make up the slots together, each an equal
        share of them. What only passes through need not be there."""
        some = next(array for array in memory if array is not None)
        if not task.op and some.itemsize > self.segment_bytes:  # a long text is one element
            memory = [None if array is None else array.view(np.uint8) for array in memory]
        name = task.algorithm or self.choice.choose(task.operation, nbytes)
        yield from self.take(call, task, memory, name)

    def take(
        self, call: MessageCall, task: Task, memory: Sequence[Array | None], name: str
    ) -> Program:
        """The algorithm of this name."""
        some = next(array for array in memory if array is not None)
        sizes = tuple(some.size if array is None else array.size for array in memory)
        most = max(1, self.segment_bytes // some.itemsize)
        make = kept_steps if sum(sizes) <= KEPT_SEGMENTS * most else make_steps
        steps = make(
            task.operation,
            name,
            self.rank,
            self.size,
            task.root,
            self.choice.per_host,
            sizes,
            most,
        )
        if any(array is None for array in memory):
            used = {segment.array for segment in steps.segments}
            memory = [
                np.empty_like(some) if array is None and number in used else array
                for number, array in enumerate(memory)
            ]
        messages = Messages(self.endpoint, self.group, self.ranks, call)
        yield from take_steps(messages, steps, memory, REDUCTIONS[task.op] if task.op else None)


def take_steps(
    messages: Messages,
    steps: MessageSteps,
    arrays: Sequence[Array | None],
    combine: Combine | None = None,
) -> Program:
    """Take one rank's steps on its memory: contiguous 1-D arrays (None: never used)."""
    memory = [np.empty(0) if array is None else array for array in arrays]
    segments = [memory[number][start:stop] for number, start, stop in steps.segments]
    flying: dict[int, list[SendWait]] = {}
    for step, at, source, onward in steps.steps:
        segment = segments[at]
        if isinstance(step, Send):
            send = messages.send(step.peer, segment)
            if send is not None:
                flying.setdefault(at, []).append(send)
            continue
        if isinstance(step, Copy):
            segment[...] = segments[source]
            continue
        adds, wants = isinstance(step, Reduce), any(messages.checks(peer) for peer in onward)
        first = isinstance(step, Reduce) and step.peer_first
        sink = Sink(segment, combine if adds else None, first, wants)
        # An earlier send of this very memory may still be queued.
        earlier = flying.pop(at, [])
        free = all(send.ready() for send in earlier)
        message = yield from messages.receive(step.peer, sink, at_once=free)
        yield from departed(earlier)
        check = messages.settle(message, sink)
        # It goes on as it has come, in the same memory if it is long.
        frame = message.frame if not adds and segment.nbytes >= ZERO_COPY_BYTES else None
        for peer in onward:
            send = messages.send(peer, segment, frame, check)
            if send is not None:
                flying.setdefault(at, []).append(send)
    for sends in flying.values():
        yield from departed(sends)
