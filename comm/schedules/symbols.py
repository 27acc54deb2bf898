"""What slots hold, in symbols: who has contributed, and in which order it was combined."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Schedule

Contributions: TypeAlias = frozenset[tuple[int, int]]
"""(rank, slot) of everything that was combined into a slot."""


class Value(NamedTuple):
    """A slot's content. `order` is a fingerprint of the expression that computes it."""

    contributions: Contributions
    order: int


Slots: TypeAlias = list[Value | None]
"""One rank's memory: None is undefined."""


class Memory:
    """All ranks' slots."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.ranks: list[Slots] = [
            [None if held is None else _leaf(held) for held in slots]
            for slots in contributions_before(schedule)
        ]

    def copy(self, rank: int, step: Copy) -> None:
        self.ranks[rank][step.slot] = self.ranks[rank][step.source]

    def receive(self, rank: int, step: Receive | Reduce, value: Value | None) -> None:
        """Put the value into the slot, or combine them; raise ScheduleError where it is wrong."""
        slots = self.ranks[rank]
        if isinstance(step, Reduce):
            value = self._combine(rank, step, slots[step.slot], value)
        slots[step.slot] = value

    def _combine(self, rank: int, step: Reduce, mine: Value | None, peers: Value | None) -> Value:
        where = f"{self.schedule.name}: rank {rank} at {step}"
        if mine is None or peers is None:
            raise ScheduleError(f"{where} combines an empty slot")
        twice = mine.contributions & peers.contributions
        if twice and self.schedule.operation != "barrier":
            raise ScheduleError(f"{where} counts {sorted(twice)} twice")
        operands = (peers, mine) if step.peer_first else (mine, peers)
        order = hash(tuple(operand.order for operand in operands))
        return Value(mine.contributions | peers.contributions, order)


def _leaf(contributions: Contributions) -> Value:
    return Value(contributions, hash(tuple(contributions)))


def contributions_before(schedule: Schedule) -> list[list[Contributions | None]]:
    """What every slot holds at the start: its own contribution, or None where undefined."""
    part = schedule.slots // schedule.size
    held: dict[str, Callable[[int, int], bool]] = {
        "all_gather": lambda rank, slot: slot // part == rank,
        "gather": lambda rank, slot: slot // part == rank,
        "scatter": lambda rank, slot: rank == schedule.root,
        "broadcast": lambda rank, slot: rank == schedule.root,
        "all_to_all": lambda rank, slot: slot < schedule.slots // 2,
    }
    starts_with = held.get(schedule.operation, _everything)
    return [
        [
            frozenset({(rank, slot)}) if starts_with(rank, slot) else None
            for slot in range(schedule.slots)
        ]
        for rank in range(schedule.size)
    ]


def _everything(rank: int, slot: int) -> bool:
    return True


def contributions_after(schedule: Schedule) -> list[dict[int, Contributions]]:
    """What the operation promises at the end: for each rank, slot -> contributions."""
    ranks, slots, root = range(schedule.size), range(schedule.slots), schedule.root
    part = schedule.slots // schedule.size

    def every(slot: int) -> Contributions:
        return frozenset((rank, slot) for rank in ranks)

    def one(rank: int, slot: int) -> Contributions:
        return frozenset({(rank, slot)})

    def part_of(rank: int) -> range:
        return slots[rank * part : (rank + 1) * part]

    def at_root(values: dict[int, Contributions]) -> list[dict[int, Contributions]]:
        return [values if rank == root else {} for rank in ranks]

    everything = {slot: every(slot) for slot in slots}
    gathered = {slot: one(slot // part, slot) for slot in slots} if part else {}
    promises: dict[str, Callable[[], list[dict[int, Contributions]]]] = {
        "all_reduce": lambda: [everything for _ in ranks],
        "reduce_scatter": lambda: [{slot: every(slot) for slot in part_of(r)} for r in ranks],
        "all_gather": lambda: [gathered for _ in ranks],
        "broadcast": lambda: [{slot: one(root, slot) for slot in slots} for _ in ranks],
        "reduce": lambda: at_root(everything),
        "gather": lambda: at_root(gathered),
        "scatter": lambda: [{slot: one(root, slot) for slot in part_of(r)} for r in ranks],
        "all_to_all": lambda: [_exchanged(schedule, rank) for rank in ranks],
        "barrier": lambda: [everything for _ in ranks],
    }
    return promises[schedule.operation]()


def _exchanged(schedule: Schedule, rank: int) -> dict[int, Contributions]:
    """Part p of the second half is part `rank` of the first half of rank p."""
    half = schedule.slots // 2
    part = half // schedule.size
    return {
        half + peer * part + i: frozenset({(peer, rank * part + i)})
        for peer in range(schedule.size)
        for i in range(part)
    }
