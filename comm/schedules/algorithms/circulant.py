"""Circulant graphs: rank r talks to r - d and r + d for a few distances d. Any world size.

As few rounds as recursive doubling without its power of two. Bruck, Ho, Kipnis, Upfal and
Weathersby, "Efficient algorithms for all-to-all communications in multiport message-passing
systems" (1997); Träff, "Optimal, non-pipelined reduce-scatter and allreduce algorithms" (2024).
"""

from ringlet.comm.schedules.schedule import Receive, Reduce, Send, Step, backwards


def bruck_all_gather(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; ceil(log2(size)) rounds, size - 1 slots from each rank.

    In every round a rank passes on all that it has, in the last only what is missing. Slots are
    numbered by owner, so Bruck's rotation at the end is not needed.
    """
    steps: list[Step] = []
    distance = 1
    while distance < size:
        to, source = (rank - distance) % size, (rank + distance) % size
        count = min(distance, size - distance)
        steps += [Send(to, (rank + i) % size) for i in range(count)]
        steps += [Receive(source, (source + i) % size) for i in range(count)]
        distance *= 2
    return steps


def circulant_reduce_scatter(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; ceil(log2(size)) rounds, size - 1 slots from each rank.

    Träff, algorithm 1: a rank works on its own slot and those of the next ranks, and in each round
    gives the further half to the rank that owns the first slot of that half. Both figures are
    optimal for any size; the operation must be commutative.
    """
    steps: list[Step] = []
    left = size
    while left > 1:
        distance, count = (left + 1) // 2, left // 2
        to, source = (rank + distance) % size, (rank - distance) % size
        steps += [Send(to, (rank + distance + i) % size) for i in range(count)]
        steps += [Reduce(source, (rank + i) % size) for i in range(count)]
        left = distance
    return steps


def circulant_all_reduce(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; the reduce-scatter, then the same way back as an all-gather."""
    steps = circulant_reduce_scatter(rank, size)
    return [*steps, *backwards(steps)]


def dissemination_barrier(rank: int, size: int, root: int = 0) -> list[Step]:
    """One empty slot; after ceil(log2(size)) rounds every rank has heard of every other.

    Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization" (1988).
    """
    steps: list[Step] = []
    distance = 1
    while distance < size:
        steps.append(Send((rank + distance) % size, 0))
        steps.append(Reduce((rank - distance) % size, 0))
        distance *= 2
    return steps
