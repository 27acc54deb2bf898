"""Collectives as data: for each rank a list of small steps over numbered slots of its memory.

A schedule says nothing about bytes, dtypes or sockets. `prove` executes it symbolically, `run`
executes it on a transport; both read the same list. The idea of collectives as chunk programs
is MSCCL's (Cowan et al., "MSCCLang", ASPLOS 2023).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias


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
    """Wait for the peer's next message and combine it with what the slot holds."""

    peer: int
    slot: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy one slot of this rank into another."""

    source: int
    slot: int


Step: TypeAlias = Send | Receive | Reduce | Copy


@dataclass(frozen=True)
class Schedule:
    """An algorithm for one world size: `steps[rank]` in the order in which the rank takes them.

    `operation` fixes what every slot holds before and must hold after (see `prove`); `slots` is
    how many numbered slots each rank's memory has.
    """

    operation: str
    algorithm: str
    size: int
    slots: int
    root: int
    steps: tuple[tuple[Step, ...], ...]


def segmented(steps: Sequence[Step], segments: Callable[[int], int]) -> Iterator[tuple[Step, int]]:
    """Cut every step into the segments of its slot: yields (step, segment number).

    A receive is interleaved with the sends of the same slot that follow it at once, so that
    the first segment travels on while the second is still on its way. The order of the
    messages between any two ranks stays the same on both sides.
    """
    position = 0
    while position < len(steps):
        first = steps[position]
        end = position + 1
        if isinstance(first, Receive | Reduce):
            while end < len(steps) and _forwards(steps[end], first.slot):
                end += 1
        for segment in range(segments(first.slot)):
            for step in steps[position:end]:
                yield step, segment
        position = end


def _forwards(step: Step, slot: int) -> bool:
    return isinstance(step, Send) and step.slot == slot
