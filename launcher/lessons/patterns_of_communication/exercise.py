"""Lesson 4: write collectives as schedules.

A schedule is, for each rank, a list of steps in the order in which the rank takes them:

    Send(peer, slot)       sends what the slot holds to the rank `peer`; never waits
    Receive(peer, slot)    waits for the next message of `peer`, and puts it into the slot
    Copy(source, slot)     copies one slot of this rank into another

Slots are the numbered parts of a rank's memory. Messages from one rank to another arrive in the
order in which they were sent. In a round a rank can send one slot and receive one; what it
receives, it can send on in the next round. Rank 0 is the root. In what the check says, `your
scatter of 3` is the schedule for 3 ranks.
"""

from ringlet.comm.schedules.schedule import Copy, Receive, Send, Step


def scatter(rank: int, size: int) -> list[Step]:
    """The root's array is cut into `size` slots; at the end slot r is on rank r.

    At the start only the root's slots hold something. In size - 1 rounds.
    """
    raise NotImplementedError


def all_gather(rank: int, size: int) -> list[Step]:
    """At the start slot r of rank r holds something, at the end every rank has all `size` slots.

    In size - 1 rounds, which takes care: if all ranks send to the same one, it can only receive
    from one at a time.
    """
    raise NotImplementedError


def broadcast(rank: int, size: int) -> list[Step]:
    """At the end every rank has all `size` slots of the root.

    In at most 2 * (size - 1) rounds of one slot each. (If the root sends all slots to all ranks,
    these are size * (size - 1) rounds.) Which two patterns, one after the other, do this?
    """
    raise NotImplementedError


def all_to_all(rank: int, size: int) -> list[Step]:
    """Every rank has a message for every rank.

    A rank's slots 0 to size - 1 are what it has for ranks 0 to size - 1. At the end its slots size
    to 2 * size - 1 are what ranks 0 to size - 1 had for it, also what it had for itself. In
    size - 1 rounds.
    """
    raise NotImplementedError
