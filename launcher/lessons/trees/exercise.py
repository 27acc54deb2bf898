"""Lesson 6: few rounds, or few bytes, or both ways at once.

The steps are those of lesson 5: Send(peer, slot), Receive(peer, slot). Rank 0 is the root.
"""

from ringlet.comm.schedules.schedule import Receive, Send, Step


def tree(rank: int, size: int) -> list[Step]:
    """Broadcast the root's array, one slot (number 0), in as few rounds as possible.

    In a round a rank can send one message and receive one. Those who have the slot double in every
    round: ceil(log2(size)) rounds, for any size.
    """
    raise NotImplementedError


def chain(rank: int, size: int, segments: int) -> list[Step]:
    """Broadcast the root's array along the chain 0, 1, 2, ..., as a pipeline.

    The array is cut into `segments` slots. A rank sends to the next one only, and passes a segment
    on while the one after it is on its way: size - 2 + segments rounds of one segment each.
    """
    raise NotImplementedError


def both_ways(rank: int, size: int) -> list[Step]:
    """All-gather on a ring whose links carry both ways at once.

    Before: slot r of rank r holds the rank's part, other slots hold nothing. After: every rank has
    all `size` slots. A rank talks to its two neighbours only, but can send to both, and receive
    from both, in the same round: size // 2 rounds. No rank sends more than size - 1 slots.
    """
    raise NotImplementedError


def best_segments(nbytes: int, size: int, overhead: float, bandwidth: float) -> int:
    """How many segments make the chain fastest.

    Each message of s bytes keeps a port busy for `overhead` + s / `bandwidth` seconds, so the chain
    takes size - 2 + segments times as long as one segment does. From 1 to 4096.
    """
    raise NotImplementedError
