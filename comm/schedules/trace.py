"""What happens in every round of a schedule: who sends what, and what all slots hold after it."""

from collections import deque
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeAlias

from ringlet.comm.schedules.direct import Place
from ringlet.comm.schedules.prove import Prover, Transfer
from ringlet.comm.schedules.prove_direct import prove_direct
from ringlet.comm.schedules.schedule import Schedule, cut
from ringlet.comm.schedules.symbols import (
    Contributions,
    contributions_after,
    contributions_before,
)

State: TypeAlias = tuple[tuple[Contributions | None, ...], ...]
"""What slots hold: [rank][slot]."""


@dataclass(frozen=True)
class Trace:
    """A schedule's rounds."""

    schedule: Schedule
    transfers: tuple[Transfer, ...]

    states: tuple[State, ...]
    """By round; round 0 is the start."""

    promised: tuple[dict[int, Contributions], ...]
    """promised[rank][slot]: what it holds at the end."""

    segments: int = 1
    """Into how many each slot was cut."""

    @property
    def rounds(self) -> int:
        """How many there are."""
        return len(self.states) - 1

    def finished(self, round_: int, rank: int, slot: int) -> bool:
        """Whether the slot already holds what the operation promises."""
        held, promised = self.states[round_][rank][slot], self.promised[rank].get(slot)
        return held is not None and held == promised


def trace(schedule: Schedule, segments: int = 1, ports: int = 1) -> Trace:
    """Prove the schedule, every slot cut into `segments`; returns what happened in every round.

    Slots that are ready for the same peer at the same moment travel in the same round; segments,
    which are there to follow one another, have a round each.
    """
    schedule = cut(schedule, segments)
    prover = Prover(schedule, ports, together=segments == 1)
    slots, states = contributions_before(schedule), list[State]()
    changes = deque(sorted(prover.changes, key=itemgetter(0)))
    for round_ in range(prover.rounds.last + 1):
        while changes and changes[0][0] == round_:
            _, rank, slot, value = changes.popleft()
            slots[rank][slot] = None if value is None else value.contributions
        states.append(tuple(map(tuple, slots)))
    transfers = sorted(prover.transfers, key=itemgetter(0, 1))  # by round and sender
    promised = tuple(contributions_after(schedule))
    return Trace(schedule, tuple(transfers), tuple(states), promised, segments)


def trace_direct(operation: str, size: int, root: int = 0) -> Trace:
    """The same of a direct schedule; a round is what happens between two fences."""
    proof = prove_direct(operation, size, root)
    states = tuple(
        tuple(
            tuple(memory.get(Place(rank, slot)) for slot in range(proof.promise.slots))
            for rank in range(size)
        )
        for memory in proof.states
    )
    transfers = tuple(sorted(proof.transfers, key=itemgetter(0, 1, 3, 2)))
    return Trace(proof.promise, transfers, states, tuple(contributions_after(proof.promise)))
