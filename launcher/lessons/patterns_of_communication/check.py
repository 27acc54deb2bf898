"""Proves the collectives of lesson 4, and counts their rounds."""

from collections.abc import Iterator
from typing import Any

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.prove import prove
from ringlet.comm.schedules.svg import counted
from ringlet.launcher.lessons.schedules import schedule_of

SIZES = (1, 2, 3, 4, 5, 8)

COLLECTIVES = {"scatter": (1, 1), "all_gather": (1, 1), "broadcast": (1, 2), "all_to_all": (2, 1)}
"""Slots for each rank, and rounds for each other rank."""

HINTS = (
    "scatter: the root has a Send for every other rank, and each other rank one Receive. With one "
    "rank there is nothing to do. `if rank == 0:` tells the two kinds of ranks apart.",
    "all_gather: in round k (1 to size - 1) rank r can send its slot to rank (r + k) % size. Then "
    "every rank is sent to by one rank alone: by which?",
    "all_gather: rank r receives from rank (r - k) % size, and puts it into the slot of that "
    "number. First Send, then Receive: if all ranks wait first, nobody ever sends.",
    "broadcast: after a scatter, slot r is on rank r. That is where an all-gather begins: "
    "scatter(rank, size) + all_gather(rank, size).",
    "all_to_all: the same peers in the same rounds as in all_gather. Send(peer, peer), and "
    "Receive(peer, size + peer); and a Copy of what the rank has for itself.",
)


def check(answer: Any) -> Iterator[str]:
    """What is wrong with an exercise."""
    wrong = False
    for operation, (slots, rounds) in COLLECTIVES.items():
        if operation == "broadcast" and wrong:
            continue  # It is made of the two before it.
        try:
            for size in SIZES:
                _check(answer, operation, size, slots * size, rounds * (size - 1))
        except ScheduleError as error:
            wrong = True
            yield str(error)


def _check(answer: Any, operation: str, size: int, slots: int, rounds: int) -> None:
    """Raise ScheduleError for a schedule that is wrong, or takes too many rounds."""
    made = schedule_of(answer, operation, operation, size, slots)
    taken = prove(made).slot_times
    if taken > rounds:
        raise ScheduleError(
            f"{made}: the result is right, but it takes {counted(taken, 'round')}; {rounds} "
            f"{'is' if rounds == 1 else 'are'} enough"
        )
