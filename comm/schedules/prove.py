"""Prove a schedule: execute it symbolically, with sets of contributions in place of numbers.

A slot holds None (undefined) or the set of (rank, slot) contributions that were combined into
it. Combining two sets that share a contribution would count it twice and is an error (but not
in a barrier, where a set means "has heard of"). After the last step every slot that the
operation defines must hold exactly what it should.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.execute import Clocks, execute
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Schedule, Send, cut
from ringlet.comm.schedules.symbols import Memory, Value, contributions_after


@dataclass(frozen=True)
class Proof:
    """What was counted on the way: the textbook's figures for an algorithm.

    A rank sends one message and receives one at a time. `rounds` is the longest chain when all
    slots that are ready for the same peer at the same moment travel as one message, which takes
    a unit of time; `slot_times` when every slot is a message of its own. `sent` and `received`
    count slots, by rank.
    """

    rounds: int
    slot_times: int
    sent: tuple[int, ...]
    received: tuple[int, ...]


def prove(schedule: Schedule, segments: int = 1, ports: int = 1) -> Proof:
    """Execute the schedule with every slot cut into `segments`; raise ScheduleError if wrong.

    Shown: nobody waits for ever, no message is left over, every slot ends with exactly the
    contributions that the operation promises, and where several ranks end with the same
    reduction they have combined it in the same order: their results are the same bits.
    Times are counted for ranks that can send and receive on so many `ports` at once.
    """
    prover = Prover(cut(schedule, segments), ports)
    execute(prover.memory.schedule, prover)
    _check_ends(prover.memory)
    return Proof(
        rounds=prover.rounds.last,
        slot_times=prover.slot_times.last,
        sent=tuple(count // segments for count in prover.sent),
        received=tuple(count // segments for count in prover.received),
    )


class Arrival(NamedTuple):
    """A message in a prover's world."""

    value: Value | None
    sender: int
    round: int
    slot_time: int


class Prover:
    """The reader of a proof: symbolic memory, and two clocks."""

    def __init__(self, schedule: Schedule, ports: int = 1) -> None:
        self.memory = Memory(schedule)
        self.rounds = Beats(schedule.size, ports, together=True)
        self.slot_times = Beats(schedule.size, ports, together=False)
        self.sent = [0] * schedule.size
        self.received = [0] * schedule.size

    def copy(self, rank: int, step: Copy) -> None:
        self.memory.copy(rank, step)

    def send(self, rank: int, step: Send) -> Arrival:
        self.sent[rank] += 1
        return Arrival(
            self.memory.ranks[rank][step.slot],
            rank,
            self.rounds.send(rank, step.peer),
            self.slot_times.send(rank, step.peer),
        )

    def receive(self, rank: int, step: Receive | Reduce, message: Arrival) -> None:
        self.memory.receive(rank, step, message.value)
        self.received[rank] += 1
        self.rounds.receive(rank, message.sender, message.round)
        self.slot_times.receive(rank, message.sender, message.slot_time)


class Beats:
    """Clocks on which every message takes one unit of time.

    `together`: what is ready for the same peer at the same moment travels as one message.
    """

    def __init__(self, size: int, ports: int = 1, together: bool = False) -> None:
        self._clocks = Clocks(size, ports)
        self._together = together
        # Of each rank: the last message sent, as (peer, ready at, left at), and received.
        self._sent: list[tuple[int, float, int]] = [(-1, 0, 0)] * size
        self._received: list[tuple[int, int, int]] = [(-1, 0, 0)] * size
        self.last = 0

    def now(self, rank: int) -> int:
        """How many rounds the rank has waited for."""
        return round(self._clocks.now[rank])

    def send(self, rank: int, peer: int) -> int:
        """When the message has left: the number of the round in which it travels."""
        now = self._clocks.now[rank]
        if not self._together or self._sent[rank][:2] != (peer, now):
            self._sent[rank] = (peer, now, round(self._clocks.send(rank, 1)))
        left = self._sent[rank][2]
        self.last = max(self.last, left)
        return left

    def receive(self, rank: int, peer: int, arrival: int) -> int:
        """When the rank has the message."""
        if not self._together or self._received[rank][:2] != (peer, arrival):
            there = round(self._clocks.receive(rank, arrival, 1))
            self._received[rank] = (peer, arrival, there)
        there = self._received[rank][2]
        self.last = max(self.last, there)
        return there


def _check_ends(memory: Memory) -> None:
    orders: dict[int, int] = {}
    for rank, expected in enumerate(contributions_after(memory.schedule)):
        for slot, contributions in expected.items():
            value = memory.ranks[rank][slot]
            if value is None or value.contributions != contributions:
                held = "nothing" if value is None else sorted(value.contributions)
                raise ScheduleError(
                    f"{memory.schedule.name}: rank {rank} ends with {held} in slot {slot} "
                    f"in place of {sorted(contributions)}"
                )
            reduced = memory.schedule.operation == "all_reduce"
            if reduced and orders.setdefault(slot, value.order) != value.order:
                raise ScheduleError(
                    f"{memory.schedule.name}: rank {rank} combines slot {slot} in another order "
                    "than the ranks before it"
                )
