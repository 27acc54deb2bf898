"""Collectives as data: for each rank a list of small steps over numbered slots of its memory.

A schedule says nothing about bytes, dtypes or sockets. `prove` executes it symbolically, `run` on
a transport, from the same list. The idea is MSCCL's (Cowan et al., "MSCCLang", ASPLOS 2023).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

SEGMENT_BYTES = 4 << 20
"""A slot longer than this travels as several messages: long enough that the cost of a message does
not count, short enough that sending, receiving and adding overlap. Measured over TCP, two ranks on
a Xeon (2 MiB of second-level cache for each core), 16 and 64 MiB, beside segments of 2 MiB: 4 MiB
take 0.8 of the time, 8 MiB 0.9, 1 MiB 1.1."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the slot to the peer. Never waits: the transport queues it."""

    peer: int
    slot: int


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for the peer's next message and put it into the slot."""

    peer: int
    slot: int


@dataclass(frozen=True, slots=True)
class Reduce:
    """Wait for the peer's next message and combine it with what the slot holds.

    `peer_first`: the message is the first operand. Even where a + b is b + a, the sign of a zero
    in max(a, b) and the payload of a NaN depend on the order.
    """

    peer: int
    slot: int
    peer_first: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy one slot of this rank into another."""

    source: int
    slot: int


Step: TypeAlias = Send | Receive | Reduce | Copy


@dataclass(frozen=True)
class Schedule:
    """An algorithm for one world size: `steps[rank]` in the order in which the rank takes them.

    `operation` fixes what every slot holds before and must hold after (see symbols.py). `slots` is
    the number of slots of each rank's memory: the array in that many nearly equal parts; in
    all_to_all, the array to send and then the array received. Where every rank has a part of the
    array (as in all_gather, scatter or all_to_all), rank r's part is the r-th slots / size slots.
    """

    operation: str
    algorithm: str
    size: int
    slots: int
    root: int
    steps: tuple[tuple[Step, ...], ...]

    @property
    def reduces(self) -> bool:
        """Whether the operation combines what slots hold."""
        return self.operation in ("all_reduce", "reduce_scatter", "reduce", "barrier")

    @property
    def array_slots(self) -> int:
        """Slots of one whole array: half of all in all_to_all, which has two."""
        return self.slots // 2 if self.operation == "all_to_all" else self.slots

    def queue(self, rank: int, step: Step) -> tuple[int, int] | None:
        """(sender, receiver) of the step's message; None for a copy: see kernel.py."""
        if isinstance(step, Send):
            return rank, step.peer
        return None if isinstance(step, Copy) else (step.peer, rank)

    def __str__(self) -> str:
        return f"{self.algorithm} {self.operation} of {self.size}"


def segmented(steps: Sequence[Step], segments: Callable[[int], int]) -> Iterator[tuple[Step, int]]:
    """Cut every step into the segments of its slot: yields (step, segment number).

    A receive is interleaved with the sends of the same slot that follow it directly, so the first
    segment travels on while the second is on its way. Both sides keep the same order.
    """
    position = 0
    while position < len(steps):
        first = steps[position]
        end = position + 1
        if isinstance(first, Receive | Reduce):
            slot = first.slot
            while end < len(steps) and isinstance(steps[end], Send) and steps[end].slot == slot:
                end += 1
        for segment in range(segments(first.slot)):
            for step in steps[position:end]:
                yield step, segment
        position = end


def embed(
    steps: Sequence[Step],
    slots: Callable[[int], Sequence[int]] = lambda slot: (slot,),
    peer: Callable[[int], int] = lambda peer: peer,
) -> list[Step]:
    """The steps as part of a larger schedule: peers renumbered, each slot cut into several."""
    result: list[Step] = []
    for step, segment in segmented(steps, lambda slot: len(slots(slot))):
        place = slots(step.slot)[segment]
        if isinstance(step, Copy):
            result.append(Copy(slots(step.source)[segment], place))
        else:
            result.append(replace(step, peer=peer(step.peer), slot=place))
    return result


def backwards(steps: Sequence[Step], receive: type[Receive | Reduce] = Receive) -> list[Step]:
    """The way back: the last slot to come leaves first. Makes a gather (or, with Reduce, a reduce)
    of a scatter or broadcast, and an all-gather of a reduce-scatter."""
    return [
        receive(step.peer, step.slot) if isinstance(step, Send) else Send(step.peer, step.slot)
        for step in reversed(steps)
        if not isinstance(step, Copy)
    ]


def cut(schedule: Schedule, segments: int) -> Schedule:
    """The schedule with every slot cut into `segments`, as `run` cuts it for a large array."""
    if segments == 1:
        return schedule
    steps = tuple(
        tuple(embed(own, lambda slot: range(slot * segments, (slot + 1) * segments)))
        for own in schedule.steps
    )
    return replace(schedule, slots=schedule.slots * segments, steps=steps)
