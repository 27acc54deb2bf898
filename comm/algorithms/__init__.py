"""The algorithms: pure functions from a world size (and a root) to a schedule.

Each function below gives the steps of one rank; `schedule` puts the ranks together. Slot
numbering is part of an operation's meaning and is written at each function.
"""

from collections.abc import Callable
from functools import lru_cache

from ringlet.comm.schedule import Copy, Receive, Reduce, Schedule, Send, Step

Algorithm = Callable[[int, int, int], list[Step]]


def ring_reduce_scatter(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; rank r ends with the reduced slot r, in size - 1 rounds.

    The first half of the ring all-reduce of Patarasuk and Yuan, "Bandwidth optimal all-reduce
    algorithms for clusters of workstations" (2009): slot r starts at rank r + 1 and collects a
    contribution at every hop until it is home.
    """
    right, left = (rank + 1) % size, (rank - 1) % size
    steps: list[Step] = []
    for round_ in range(size - 1):
        steps.append(Send(right, (rank - round_ - 1) % size))
        steps.append(Reduce(left, (rank - round_ - 2) % size))
    return steps


def ring_all_gather(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; rank r starts with slot r and ends with all, in size - 1 rounds."""
    right, left = (rank + 1) % size, (rank - 1) % size
    steps: list[Step] = []
    for round_ in range(size - 1):
        steps.append(Send(right, (rank - round_) % size))
        steps.append(Receive(left, (rank - round_ - 1) % size))
    return steps


def ring_all_reduce(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: the array cut into `size` parts; every rank ends with all of them reduced.

    2 (size - 1) rounds, each moving 1 / size of the array: the bandwidth optimum.
    """
    return ring_reduce_scatter(rank, size) + ring_all_gather(rank, size)


def tree_broadcast(rank: int, size: int, root: int = 0) -> list[Step]:
    """One slot; binomial tree from the root, in ceil(log2(size)) rounds."""
    relative = (rank - root) % size
    steps: list[Step] = []
    mask = 1
    while mask < size and not relative & mask:
        mask <<= 1
    if relative:
        steps.append(Receive((rank - mask) % size, 0))
    while mask > 1:
        mask >>= 1
        if relative + mask < size:
            steps.append(Send((rank + mask) % size, 0))
    return steps


def tree_reduce(rank: int, size: int, root: int = 0) -> list[Step]:
    """One slot; the binomial tree upside down: the root ends with the reduction."""
    relative = (rank - root) % size
    steps: list[Step] = []
    mask = 1
    while mask < size:
        if relative & mask:
            steps.append(Send((rank - mask) % size, 0))
            break
        if relative + mask < size:
            steps.append(Reduce((rank + mask) % size, 0))
        mask <<= 1
    return steps


def direct_gather(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; rank r starts with slot r, the root ends with all."""
    if rank != root:
        return [Send(root, rank)]
    return [Receive(peer, peer) for peer in range(size) if peer != root]


def direct_scatter(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; the root starts with all, rank r ends with slot r."""
    if rank != root:
        return [Receive(root, rank)]
    return [Send(peer, peer) for peer in range(size) if peer != root]


def pairwise_all_to_all(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: `size` to send, then `size` received: slot p goes to rank p's slot size + r.

    In round k every rank sends to the one k further on, so that no two send to the same rank.
    """
    steps: list[Step] = [Copy(rank, size + rank)]
    for distance in range(1, size):
        to, source = (rank + distance) % size, (rank - distance) % size
        steps.append(Send(to, to))
        steps.append(Receive(source, size + source))
    return steps


def dissemination_barrier(rank: int, size: int, root: int = 0) -> list[Step]:
    """One empty slot; after ceil(log2(size)) rounds every rank has heard of every other.

    Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization" (1988).
    """
    steps: list[Step] = []
    distance = 1
    while distance < size:
        steps.append(Send((rank + distance) % size, 0))
        steps.append(Reduce((rank - distance) % size, 0))
        distance <<= 1
    return steps


# operation -> name of the algorithm, its function, and its slots for a world of `size`
ALGORITHMS: dict[str, dict[str, tuple[Algorithm, Callable[[int], int]]]] = {
    "all_reduce": {"ring": (ring_all_reduce, lambda size: size)},
    "reduce_scatter": {"ring": (ring_reduce_scatter, lambda size: size)},
    "all_gather": {"ring": (ring_all_gather, lambda size: size)},
    "broadcast": {"tree": (tree_broadcast, lambda size: 1)},
    "reduce": {"tree": (tree_reduce, lambda size: 1)},
    "gather": {"direct": (direct_gather, lambda size: size)},
    "scatter": {"direct": (direct_scatter, lambda size: size)},
    "all_to_all": {"pairwise": (pairwise_all_to_all, lambda size: 2 * size)},
    "barrier": {"dissemination": (dissemination_barrier, lambda size: 1)},
}


def schedule(operation: str, algorithm: str, size: int, root: int = 0) -> Schedule:
    """The whole schedule, all ranks; raises KeyError for an unknown operation or algorithm."""
    function, slots = ALGORITHMS[operation][algorithm]
    steps = tuple(tuple(function(rank, size, root)) for rank in range(size))
    return Schedule(operation, algorithm, size, slots(size), root, steps)


@lru_cache(maxsize=1024)
def steps_of(operation: str, rank: int, size: int, root: int = 0) -> tuple[Step, ...]:
    """One rank's steps of the operation's algorithm, kept between calls."""
    function, _ = next(iter(ALGORITHMS[operation].values()))
    return tuple(function(rank, size, root))
