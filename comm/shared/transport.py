"""Collectives of ranks that share memory: the steps that were proven, compiled once and run.

The peers reach registered arrays where they lie, and long ones through the kernel. Others pass
through the staging areas. Which way a call takes is known when all ranks have said where their
arrays lie, at its first fence, and is the same on all.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import msgpack
import numpy as np

from ringlet.comm.arrays import Array, address_of, quiet_runner
from ringlet.comm.protocols import Call, ErrorWait, Program, Task, Transport
from ringlet.comm.schedules.direct import AREAS, transfers
from ringlet.comm.shared.attach import Vanished
from ringlet.comm.shared.combine import Combiner
from ringlet.comm.shared.constants import ATTACH_BYTES, FAST_ATTACH_BYTES, Constants
from ringlet.comm.shared.control_block import ControlBlock
from ringlet.comm.shared.exposure import withdraw
from ringlet.comm.shared.lower import (
    AREA,
    STAGE_BYTES,
    Shape,
    Span,
    lower_direct,
    lower_staged,
)
from ringlet.comm.shared.regions import UNREGISTERED, Regions
from ringlet.comm.shared.steps import BoundMove, Own, Peers, Stretch, bind, bind_attached
from ringlet.comm.signature import COMBINING, Signature
from ringlet.comm.stats import Exchange

FROM_EACH = ("all_reduce", "all_gather", "all_to_all")
"""Operations in which each rank has something for every other."""

OTHERS_FAST_ATTACH_BYTES = 2 << 20
"""FAST_ATTACH_BYTES of the others."""

MOST_PREPARED = 1024
"""Kinds of calls that are kept prepared."""

MOST_KEPT = 16384
"""Stretches that are kept bound to memory: some MiB. Making one takes 25 us."""


Places: TypeAlias = tuple[tuple[int, int], ...]
"""The region and offset of each rank's array."""


class Staged(NamedTuple):
    """The steps of a staged call before its first fence, and after; and the area used last."""

    first: list[BoundMove]
    rest: list[Stretch]
    area: int


@dataclass
class Prepared:
    """What one kind of call needs, made once.

    `simple` calls always go the same way: barriers, and arrays so short that they are staged
    wherever they lie. In calls that are `exposed`, arrays can be reached through the kernel.
    """

    shape: Shape
    number: int
    simple: bool
    exposed: bool
    dtype: np.dtype[Any]
    combiner: Combiner | None
    traffic: Exchange
    staged: dict[int, Staged] = field(default_factory=dict)  # by the area used first
    attached: list[Stretch] = field(default_factory=list)
    registered: dict[Places, list[Stretch]] = field(default_factory=dict)


class SharedMemory:
    """The transport of one group whose ranks share memory. For one call at a time.

    Elements too large for the staging areas go `otherwise`.
    """

    def __init__(self, control: ControlBlock, regions: Regions, otherwise: Transport) -> None:
        self.control, self._regions, self._otherwise = control, regions, otherwise
        self._run = quiet_runner()
        self._tasks: list[Task] = []  # that are prepared
        regions.tell(self._forget_region)
        self._combiners: dict[tuple[str, np.dtype[Any]], Combiner] = {}
        self._kept = 0
        self.use(control.constants)

    def use(self, constants: Constants) -> None:
        """Go by these constants, which are the same on all ranks, from now on."""
        self.control.constants = constants
        self.attach_from = ATTACH_BYTES
        self.kernel = constants.kernel  # whether it reaches what is combined, too

    @property
    def attach_from(self) -> int:
        """Arrays of this size are reached through the kernel: see `attached`."""
        return self._attach_from

    @attach_from.setter
    def attach_from(self, nbytes: int) -> None:
        self._attach_from, self.kernel = nbytes, True
        self.forget()
        self._simple_below = min(self.control.constants.whole + 1, nbytes)

    def attached(self, operation: str, nbytes: int) -> bool:
        """Whether ordinary arrays of this size are reached through the kernel."""
        if self.control.processes is None or (operation in COMBINING and not self.kernel):
            return False
        from_each, least = operation in FROM_EACH, self._attach_from
        if self.kernel:
            least = min(least, FAST_ATTACH_BYTES if from_each else OTHERS_FAST_ATTACH_BYTES)
        elif from_each:
            least = self.control.constants.moves
        return nbytes >= least

    def takes(self, itemsize: int) -> bool:
        """Whether elements of this size fit into the staging areas."""
        return itemsize * self.control.size <= STAGE_BYTES

    def run(self, call: Call, task: Task, source: Array, result: Array) -> Program:
        """Run the task. When it returns every array may be written again, by everybody."""
        prepared: Prepared | None = task.prepared
        if prepared is None:
            if not self.takes(source.itemsize):
                task = replace(task, algorithm="")
                yield from self._otherwise.run(call, task, source, result)
                return
            prepared = self._prepare(call, task, source)
        call.traffic.append(prepared.traffic)
        control, own, run, peers = self.control, (source, result), self._run, None
        number, stretches = prepared.number ^ call.sequence, None
        try:
            if prepared.simple:
                stretches = self._stage(prepared, own)
            else:
                place = self._regions.place(source)
                control.lay(place)
                if prepared.exposed:
                    control.expose(number, address_of(source))
                elif place == UNREGISTERED:  # the others cannot reach it
                    stretches = self._stage(prepared, own)
            buffer = control.announce(number)
            if not control.ready():
                yield control
            if not control.agree(number, buffer):
                yield from disagreement(call)
            if not prepared.simple:
                if prepared.exposed:
                    peers = Peers(control.addresses(buffer), number)
                places = control.places(buffer)
                reached = prepared.registered.get(places)
                if reached is None:
                    reached = self._reach(prepared, source, places)
                if reached is not None:
                    stretches = reached
                elif any(place != UNREGISTERED for place in places):  # some are: stage them all
                    stretches = stretches or self._stage(prepared, own)
                    control.arrive()
                    yield control
            assert stretches is not None
            for steps, last in stretches:
                for step in steps:
                    run(step, own, peers)
                if not last:
                    control.arrive()
                    if not control.ready():
                        yield control
        except BaseException as error:  # the call ends early
            try:
                if not isinstance(error, Vanished):
                    raise
                yield ErrorWait()
            finally:
                withdraw(control, source)

    def _reach(self, prepared: Prepared, like: Array, places: Places) -> list[Stretch] | None:
        """What is left to do where ranks reach each other's arrays; None where these are staged."""
        if places[0] != UNREGISTERED and len({region for region, _ in places}) == 1:
            return self._reach_registered(prepared, like, places)
        if prepared.exposed:
            return prepared.attached or self._attach(prepared)
        return None

    def learn(self, call: Call, task: Task) -> Program:
        """What the root's call is, on all ranks: only the root of a scatter knows the array."""
        control = self.control
        if control.rank == task.root:
            control.write_note(msgpack.packb(call.signature))
        number = ~_hash(call.signature) % 2**64 ^ call.sequence
        buffer = control.announce(number)
        yield control
        if not control.agree(number, buffer):
            yield from disagreement(call)
        operation, dtype, shape, detail = msgpack.unpackb(control.read_note(task.root, buffer))
        return Signature(operation, dtype, tuple(shape), detail)

    # -- preparing ----------------------------------------------------------------------------

    def forget(self) -> None:
        """Let go of all that is prepared."""
        for task in self._tasks:
            task.prepared = None
        self._tasks, self._kept = [], 0

    def _prepare(self, call: Call, task: Task, source: Array) -> Prepared:
        control, operation = self.control, task.operation
        simple = source.nbytes < self._simple_below
        exposed = not simple and self.attached(operation, source.nbytes)
        if operation == "all_reduce" and simple:
            operation = "all_reduce_whole"
        shape = Shape(
            operation, control.rank, control.size, task.root, source.size, source.itemsize,
            control.constants.stage,
        )  # fmt: skip
        if len(self._tasks) >= MOST_PREPARED:
            self.forget()
        number, dtype = _hash(call.signature), source.dtype
        combiner, traffic = self._combiner(task.op, dtype), self._traffic(shape)
        prepared = Prepared(shape, number, simple, exposed, dtype, combiner, traffic)
        task.prepared = prepared
        self._tasks.append(task)
        return prepared

    def _forget_region(self, region: int) -> None:
        """Let go of what is bound to a region that has gone."""
        for task in list(self._tasks):
            registered = {} if task.prepared is None else task.prepared.registered
            for places in list(registered):
                if places[0][0] == region:
                    registered.pop(places, None)

    def _keep(self, stretches: list[Stretch]) -> None:
        """Count what is bound to memory, and will be kept."""
        if self._kept + len(stretches) > MOST_KEPT:
            self.forget()
        self._kept += len(stretches)

    def _stage(self, prepared: Prepared, own: Own) -> list[Stretch]:
        """Stage the first chunk; returns what is left to do after the next fence."""
        control = self.control
        first = control.area ^ 1
        staged = prepared.staged.get(first) or self._make_staged(prepared, first)
        steps, rest, control.area = staged
        for step in steps:
            step(own, None)
        return rest

    def _make_staged(self, prepared: Prepared, first: int) -> Staged:
        shape, dtype, control = prepared.shape, prepared.dtype, self.control
        areas = [
            [_elements(control.staging(rank, area), dtype) for area in range(AREAS)]
            for rank in range(shape.size)
        ]

        def reach(span: Span) -> Array:
            return areas[span.rank][span.memory - AREA][span.start : span.stop]

        if shape.operation == "barrier":  # it stages nothing
            moves, last = lower_direct(shape), first ^ 1
        else:
            moves = lower_staged(shape, first)
            # An all-reduce ends with a fence, so nobody uses either area any more: begin with the
            # one that is in the cache. The others use a fence for each chunk.
            last = 1 if shape.operation == "all_reduce" else (first + len(moves)) % AREAS
        stretches = bind(moves, shape.rank, reach, prepared.combiner)
        self._keep(stretches)
        staged = prepared.staged[first] = Staged(stretches[0].steps, stretches[1:], last)
        return staged

    def _reach_registered(self, prepared: Prepared, like: Array, places: Places) -> list[Stretch]:
        shape, control = prepared.shape, self.control
        arrays = [
            self._regions.view(region, control.world_ranks[rank], offset, like)
            for rank, (region, offset) in enumerate(places)
        ]

        def reach(span: Span) -> Array:
            return arrays[span.rank][span.start : span.stop]

        moves = lower_direct(shape)
        stretches = bind(moves, shape.rank, reach, prepared.combiner)[1:]
        self._keep(stretches)
        prepared.registered[places] = stretches
        return stretches

    def _attach(self, prepared: Prepared) -> list[Stretch]:
        processes, shape = self.control.processes, prepared.shape
        assert processes is not None
        moves, combiner = lower_direct(shape), prepared.combiner
        bound = bind_attached(moves, self.control, processes, combiner, shape.itemsize)
        prepared.attached = bound[1:]
        return prepared.attached

    def _combiner(self, op: str, dtype: np.dtype[Any]) -> Combiner | None:
        """What combines arrays of this dtype; made once."""
        if not op:
            return None
        key = (op, dtype)
        if key not in self._combiners:
            self._combiners[key] = Combiner(*key, self.control.size)
        return self._combiners[key]

    def _traffic(self, shape: Shape) -> Exchange:
        """What is read and stored across ranks, counted on both sides, by world rank."""
        world, slots = self.control.world_ranks, shape.slots()
        lengths = [(stop - start) * shape.itemsize for start, stop in slots]
        found = Exchange()
        moved = transfers(shape.operation, shape.rank, shape.size, shape.root)
        for receiver, sender, slot in moved:
            peer = world[sender if receiver == shape.rank else receiver]
            traffic, nbytes = found[peer], lengths[slot % len(lengths)]
            if receiver == shape.rank:
                traffic.messages_received += 1
                traffic.bytes_received += nbytes
            else:
                traffic.messages_sent += 1
                traffic.bytes_sent += nbytes
        return found


def disagreement(call: Call) -> Program:
    """Some rank is in another call: all ranks see it. Each tells what it is in, and waits for the
    CollectiveMismatch that this must bring."""
    call.tell()
    yield ErrorWait()


def _elements(area: Array, dtype: np.dtype[Any]) -> Array:
    return area[: area.size // dtype.itemsize * dtype.itemsize].view(dtype)


@lru_cache(maxsize=4096)
def _hash(signature: Signature) -> int:
    """A kind of call in 64 bits. Ranks in different calls have different numbers."""
    if signature.operation == "scatter":  # only the root knows the array
        signature = signature._replace(dtype="", shape=())
    digest = hashlib.blake2b(repr(tuple(signature)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
