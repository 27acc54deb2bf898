"""What slots hold, in symbols: whose contributions, before an operation and after it."""

from typing import TypeAlias

from ringlet.comm.schedules.schedule import Schedule

Contributions: TypeAlias = frozenset[tuple[int, int]]
"""(rank, slot) of everything that was combined into a slot."""


def contributions_before(schedule: Schedule) -> list[list[Contributions | None]]:
    """What every slot holds at the start: its own contribution, or None where undefined."""
    part = schedule.slots // schedule.size

    def defined(rank: int, slot: int) -> bool:
        match schedule.operation:
            case "all_gather" | "gather":
                return slot // part == rank
            case "broadcast" | "scatter":
                return rank == schedule.root
            case "all_to_all":
                return slot < schedule.slots // 2
            case _:
                return True

    return [
        [
            frozenset({(rank, slot)}) if defined(rank, slot) else None
            for slot in range(schedule.slots)
        ]
        for rank in range(schedule.size)
    ]


def contributions_after(schedule: Schedule) -> list[dict[int, Contributions]]:
    """What the operation promises at the end: for each rank, slot -> contributions."""
    ranks, slots, root = range(schedule.size), range(schedule.slots), schedule.root
    part, half = schedule.slots // schedule.size, schedule.slots // 2
    everyones = [frozenset((rank, slot) for rank in ranks) for slot in slots]

    def promised(rank: int, slot: int) -> Contributions | None:
        match schedule.operation:
            case "all_reduce" | "barrier":
                return everyones[slot]
            case "reduce":
                return everyones[slot] if rank == root else None
            case "reduce_scatter":
                return everyones[slot] if slot // part == rank else None
            case "all_gather":
                return frozenset({(slot // part, slot)})
            case "gather":
                return frozenset({(slot // part, slot)}) if rank == root else None
            case "broadcast":
                return frozenset({(root, slot)})
            case "scatter":
                return frozenset({(root, slot)}) if slot // part == rank else None
            case "all_to_all":  # part p of the second half is part `rank` of rank p's first half
                peer, place = divmod(slot - half, half // schedule.size)
                own = rank * (half // schedule.size) + place
                return frozenset({(peer, own)}) if slot >= half else None
        raise ValueError(f"unknown operation {schedule.operation!r}")

    return [
        {slot: held for slot in slots if (held := promised(rank, slot)) is not None}
        for rank in ranks
    ]
