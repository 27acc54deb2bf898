"""What slots hold, in symbols: whose contributions, before an operation and after it."""

from collections.abc import Callable
from typing import TypeAlias

from ringlet.comm.schedules.schedule import Schedule

Contributions: TypeAlias = frozenset[tuple[int, int]]
"""(rank, slot) of everything that was combined into a slot."""


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
