"""Rings: every rank talks to its two neighbours only. The bandwidth optimum, in many rounds.

Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009).
"""

from collections.abc import Callable, Iterator

from ringlet.comm.schedules.schedule import Receive, Reduce, Send, Step, embed


def ring_reduce_scatter(rank: int, size: int, root: int = 0, way: int = 1) -> list[Step]:
    """Slots: one for each rank; rank r ends with the reduced slot r, in size - 1 rounds.

    Slot r starts at rank r + 1 and collects a contribution at every hop until it is home.
    `way` -1 goes round the other way.
    """
    to, source = (rank + way) % size, (rank - way) % size
    steps: list[Step] = []
    for round_ in range(size - 1):
        steps.append(Send(to, (rank - way * (round_ + 1)) % size))
        steps.append(Reduce(source, (rank - way * (round_ + 2)) % size))
    return steps


def ring_all_gather(rank: int, size: int, root: int = 0, way: int = 1) -> list[Step]:
    """Slots: one for each rank; rank r starts with slot r and ends with all, in size - 1 rounds."""
    to, source = (rank + way) % size, (rank - way) % size
    steps: list[Step] = []
    for round_ in range(size - 1):
        steps.append(Send(to, (rank - way * round_) % size))
        steps.append(Receive(source, (rank - way * (round_ + 1)) % size))
    return steps


def ring_all_reduce(rank: int, size: int, root: int = 0, way: int = 1) -> list[Step]:
    """Slots: the array cut into `size` parts; every rank ends with all of them reduced.

    2 (size - 1) rounds, each moving 1 / size of the array: the bandwidth optimum.
    """
    return ring_reduce_scatter(rank, size, way=way) + ring_all_gather(rank, size, way=way)


def both_ways(ring: Callable[..., list[Step]], rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: two for each of the ring's: the even ones go up the ring, the odd ones down.

    On links that carry both ways at once (a torus, say), twice as fast as the ring. The ways take
    turns, each turn a receive and the send that passes it on.
    """
    evens = embed(ring(rank, size), lambda slot: [2 * slot])
    odds = embed(ring(rank, size, way=-1), lambda slot: [2 * slot + 1])
    pairs = zip(_turns(evens), _turns(odds), strict=True)
    return [step for one, other in pairs for step in one + other]


def _turns(steps: list[Step]) -> Iterator[list[Step]]:
    turn: list[Step] = []
    for step in steps:
        turn.append(step)
        if isinstance(step, Send):
            yield turn
            turn = []
    yield turn
