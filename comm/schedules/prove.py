"""Prove a schedule: execute it symbolically, with sets of contributions instead of numbers.

A slot holds None (undefined) or the set of (rank, slot) contributions that were combined into
it. Combining two sets that share a contribution would count it twice and is an error (except in a
barrier, where a set means "has heard of"). After the last step every slot that the operation
defines must hold exactly what it promises.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.clocks import Rounds
from ringlet.comm.schedules.kernel import execute
from ringlet.comm.schedules.price import LinkCost, Network, price
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Schedule, Send, cut
from ringlet.comm.schedules.symbols import (
    Contributions,
    contributions_after,
    contributions_before,
)


@dataclass(frozen=True)
class Proof:
    """The counts of an execution: the textbook's figures for an algorithm.

    A rank sends one message and receives one at a time. `rounds` is the longest chain of messages
    if all slots that are ready for the same peer at the same moment travel in one; `slot_times`
    if every slot is a message of its own. `sent` counts slots, by rank.
    """

    rounds: int
    slot_times: int
    sent: tuple[int, ...]


def prove(schedule: Schedule, segments: int = 1, ports: int = 1) -> Proof:
    """Execute the schedule with every slot cut into `segments`; raise ScheduleError if wrong.

    Shown: no rank waits for ever, no message is left over, every slot ends with exactly the
    contributions that the operation promises, and where several ranks end with the same
    reduction they have combined it in the same order, so their results are the same bits.
    Rounds are counted for ranks that can send and receive on `ports` ports at once.
    """
    schedule = cut(schedule, segments)
    prover = Prover(schedule, ports)
    slots_as_seconds = Network.uniform(LinkCost(latency=0, bandwidth=1), ports=ports)
    return Proof(
        rounds=prover.rounds.last,
        slot_times=round(price(schedule, slots_as_seconds, schedule.array_slots).seconds),
        sent=tuple(count // segments for count in prover.sent),
    )


class Value(NamedTuple):
    """A slot's content. `order` is a fingerprint of the expression that computes it."""

    contributions: Contributions
    order: int


SlotMessage: TypeAlias = tuple[int, Value | None, int]
"""A slot on its way: its number and content, and the round in which it travels."""


class Transfer(NamedTuple):
    """A slot that has arrived; `round` counts from 1, and is the one in which it did."""

    round: int
    sender: int
    source: int
    receiver: int
    slot: int
    combined: bool


class Prover:
    """The reader of a proof. Once made, it holds what was counted and what changed when.

    `together`: slots that are ready for the same peer at the same moment travel as one message.
    """

    def __init__(self, schedule: Schedule, ports: int = 1, together: bool = True) -> None:
        self._schedule, size = schedule, schedule.size
        self._slots: list[list[Value | None]] = [
            [None if own is None else Value(own, hash(tuple(own))) for own in slots]
            for slots in contributions_before(schedule)
        ]
        self.rounds = Rounds(size, ports, together)
        self.sent = [0] * size
        self.transfers: list[Transfer] = []
        self.changes: list[tuple[int, int, int, Value | None]] = []  # round, rank, slot, value
        execute(schedule, schedule.steps, self)
        self._check_results()

    def compute(self, rank: int, step: Copy) -> None:
        self._set(self.rounds.now(rank), rank, step.slot, self._slots[rank][step.source])

    def send(self, rank: int, step: Send) -> SlotMessage:
        self.sent[rank] += 1
        left = self.rounds.send(rank, step.peer)
        return step.slot, self._slots[rank][step.slot], left

    def receive(self, rank: int, step: Receive | Reduce, payload: SlotMessage) -> None:
        source, value, left = payload
        there, combined = self.rounds.receive(rank, step.peer, left), isinstance(step, Reduce)
        self.transfers.append(Transfer(there, step.peer, source, rank, step.slot, combined))
        if isinstance(step, Reduce):
            value = self._combine(rank, step, self._slots[rank][step.slot], value)
        self._set(there, rank, step.slot, value)

    def _set(self, round_: int, rank: int, slot: int, value: Value | None) -> None:
        self._slots[rank][slot] = value
        self.changes.append((round_, rank, slot, value))

    def _combine(self, rank: int, step: Reduce, own: Value | None, peers: Value | None) -> Value:
        where = f"{self._schedule}: rank {rank} at {step}"
        if own is None or peers is None:
            raise ScheduleError(f"{where} combines an empty slot")
        twice = own.contributions & peers.contributions
        if twice and self._schedule.operation != "barrier":
            raise ScheduleError(f"{where} counts {_in_words(twice)} twice")
        operands = (peers, own) if step.peer_first else (own, peers)
        order = hash(tuple(operand.order for operand in operands))
        return Value(own.contributions | peers.contributions, order)

    def _check_results(self) -> None:
        orders: dict[int, int] = {}
        for rank, promised in enumerate(contributions_after(self._schedule)):
            for slot, contributions in promised.items():
                value = self._slots[rank][slot]
                if value is None or value.contributions != contributions:
                    what = _difference(value and value.contributions, contributions, slot)
                    raise ScheduleError(f"{self._schedule}: rank {rank} ends {what}")
                reduced = self._schedule.operation == "all_reduce"
                if reduced and orders.setdefault(slot, value.order) != value.order:
                    raise ScheduleError(
                        f"{self._schedule}: rank {rank} combines slot {slot} in another order "
                        "than the ranks before it"
                    )


def _difference(held: Contributions | None, promised: Contributions, slot: int) -> str:
    """What a slot lacks, and what it has in its place."""
    if held is None:
        return f"with nothing in slot {slot}"
    place = "" if {own for _, own in promised} == {slot} else f" in slot {slot}"
    lacks, has = promised - held, held - promised
    instead = f"with {_in_words(has)}" if has else ""
    if not lacks:
        return f"{instead} in slot {slot}"
    return f"without {_in_words(lacks)}{place}{instead and f', but {instead}'}"


def _in_words(contributions: Contributions) -> str:
    """Whose contributions to which slots they are."""
    ranks = sorted({str(rank) for rank, _ in contributions}, key=int)
    slots = sorted({str(slot) for _, slot in contributions}, key=int)
    whose = "rank {}'s contribution" if len(ranks) == 1 else "the contributions of ranks {}"
    where = "slot" if len(slots) == 1 else "slots"
    return f"{whose.format(', '.join(ranks))} to {where} {', '.join(slots)}"
