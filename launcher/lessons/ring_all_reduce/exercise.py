"""Lesson 5: write the ring all-reduce as a schedule.

A schedule is, for each rank, the list of its steps in the order in which it takes them:

    Send(peer, slot)       send the slot to the peer; never waits
    Receive(peer, slot)    wait for the peer's next message, and put it into the slot
    Reduce(peer, slot)     wait for the peer's next message, and add it to what the slot holds

Each rank's array is cut into `size` slots, numbered from 0. In what the check says,
`your all_reduce of 3` is the schedule for 3 ranks.
"""

from ringlet.comm.schedules.schedule import Receive, Reduce, Send, Step


def reduce_scatter(rank: int, size: int) -> list[Step]:
    """The steps of `rank` in a ring of `size` ranks.

    Before: slot s of every rank holds the rank's own contribution to slot s.
    After: slot r of rank r holds the contributions of all ranks. Other slots do not matter.

    A rank sends to one neighbour only, and receives from the other; no more than size - 1 slots.
    """
    raise NotImplementedError


def all_reduce(rank: int, size: int) -> list[Step]:
    """The steps of `rank` in an all-reduce: the reduce-scatter, then an all-gather.

    After: every slot of every rank holds the contributions of all ranks, each counted once.
    A rank sends 2 (size - 1) slots, all to the same neighbour.
    """
    raise NotImplementedError
