"""Proves the student's reduce-scatter and all-reduce, and compares their counts with a ring's."""

from collections.abc import Iterator
from typing import Any

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.prove import prove
from ringlet.comm.schedules.schedule import Schedule, Send
from ringlet.comm.schedules.svg import counted
from ringlet.launcher.lessons.schedules import schedule_of

SIZES = (1, 2, 3, 4, 5, 8, 13)

HINTS = (
    "Start with 2 ranks. Rank 0 sends slot 1, the one that it does not keep, and adds what comes "
    "to slot 0. What does rank 1 do?",
    "In every round a rank sends to rank + 1 the slot that it added to in the round before, and "
    "adds what comes from rank - 1. All numbers count modulo size.",
    "Go backwards to find where to begin. In the last round rank r adds to slot r and sends slot r "
    "+ 1, so in the round before it adds to slot r + 1. In the first round, size - 2 rounds before "
    "the last, it adds to slot r + size - 2, which is r - 2, and sends slot r - 1.",
    "In round k (from 0) rank r sends slot (r - k - 1) % size and adds to slot (r - k - 2) % size. "
    "Send before you wait: if all ranks wait first, nobody ever sends.",
    "The all-gather goes round the same way: in round k rank r sends slot (r - k) % size, complete "
    "by now, and receives slot (r - k - 1) % size. Receive replaces what the slot holds.",
)


def check(answer: Any) -> Iterator[str]:
    """What is wrong with `reduce_scatter` and `all_reduce`."""
    for function, passes in (("reduce_scatter", 1), ("all_reduce", 2)):
        try:
            for size in SIZES:
                made = schedule_of(answer, function, function, size, size)
                _check_costs(made, passes)
        except ScheduleError as error:
            yield str(error)
            return  # the second is made of the first


def _check_costs(made: Schedule, passes: int) -> None:
    """Raise ScheduleError for a schedule that is wrong, or not a ring's."""
    proof = prove(made)
    best = passes * (made.size - 1)
    for rank, steps in enumerate(made.steps):
        peers = sorted({step.peer for step in steps if isinstance(step, Send)})
        if len(peers) > 1:
            raise ScheduleError(
                f"{made}: the result is right, but rank {rank} sends to ranks "
                f"{', '.join(map(str, peers))}; in a ring it sends to one neighbour only"
            )
        if peers and (peers[0] - rank) % made.size not in (1, made.size - 1):
            raise ScheduleError(
                f"{made}: the result is right, but rank {rank} sends to rank {peers[0]}, which is "
                "not its neighbour"
            )
    if (most := max(proof.sent)) > best:
        raise ScheduleError(
            f"{made}: the result is right, but rank {proof.sent.index(most)} sends "
            f"{counted(most, 'slot')}; a ring's sends {best}"
        )
    if proof.slot_times > best:
        raise ScheduleError(
            f"{made}: the result is right, but it takes {counted(proof.slot_times, 'round')} of a "
            f"slot each, and a ring's takes {best}"
        )
