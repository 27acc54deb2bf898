"""The algorithms: pure functions from a world size (and a root) to a schedule.

Each function gives the steps of one rank; `schedule` puts the ranks together. What the slots
hold is part of an operation's meaning (see `Schedule`); each function says how many there are.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

from ringlet.comm.schedules.algorithms import (
    all_to_all,
    circulant,
    hierarchical,
    recursive,
    rings,
    trees,
)
from ringlet.comm.schedules.schedule import Schedule, Step


class Algorithm(NamedTuple):
    """One way to do an operation."""

    steps: Callable[..., list[Step]]
    """(rank, size, root) -> that rank's steps."""

    slots: Callable[[int], int]
    """Size of the world -> number of slots."""

    knows_hosts: bool = False
    """Whether `steps` also takes `per_host`, the ranks on each host."""

    def steps_of(self, rank: int, size: int, root: int, per_host: int | None) -> tuple[Step, ...]:
        """One rank's steps; with `per_host` None, all ranks are on one host."""
        hosts = {"per_host": size if per_host is None else per_host} if self.knows_hosts else {}
        return tuple(self.steps(rank, size, root, **hosts))


def _one(size: int) -> int:
    return 1


def _each(size: int) -> int:
    return size


def _two_each(size: int) -> int:
    return 2 * size


# The first of each operation is its default.
ALGORITHMS: dict[str, dict[str, Algorithm]] = {
    "all_reduce": {
        "ring": Algorithm(rings.ring_all_reduce, _each),
        "bidirectional_ring": Algorithm(partial(rings.both_ways, rings.ring_all_reduce), _two_each),
        "recursive_doubling": Algorithm(recursive.recursive_doubling_all_reduce, _one),
        "halving_doubling": Algorithm(
            recursive.halving_doubling_all_reduce, recursive.power_of_two
        ),
        "circulant": Algorithm(circulant.circulant_all_reduce, _each),
        "hierarchical": Algorithm(hierarchical.hierarchical_all_reduce, _each, knows_hosts=True),
    },
    "reduce_scatter": {
        "ring": Algorithm(rings.ring_reduce_scatter, _each),
        "bidirectional_ring": Algorithm(
            partial(rings.both_ways, rings.ring_reduce_scatter), _two_each
        ),
        "circulant": Algorithm(circulant.circulant_reduce_scatter, _each),
    },
    "all_gather": {
        "ring": Algorithm(rings.ring_all_gather, _each),
        "bidirectional_ring": Algorithm(partial(rings.both_ways, rings.ring_all_gather), _two_each),
        "bruck": Algorithm(circulant.bruck_all_gather, _each),
    },
    "broadcast": {
        "tree": Algorithm(trees.tree_broadcast, _one),
        "chain": Algorithm(trees.chain_broadcast, _one),
        "scatter_all_gather": Algorithm(trees.scatter_all_gather_broadcast, _each),
    },
    "reduce": {"tree": Algorithm(trees.tree_reduce, _one)},
    "gather": {
        "direct": Algorithm(trees.direct_gather, _each),
        "tree": Algorithm(trees.tree_gather, _each),
    },
    "scatter": {
        "direct": Algorithm(trees.direct_scatter, _each),
        "tree": Algorithm(trees.tree_scatter, _each),
    },
    "all_to_all": {
        "pairwise": Algorithm(all_to_all.pairwise_all_to_all, _two_each),
        "bruck": Algorithm(all_to_all.bruck_all_to_all, _two_each),
    },
    "barrier": {"dissemination": Algorithm(circulant.dissemination_barrier, _one)},
}


def schedule(
    operation: str, algorithm: str, size: int, root: int = 0, per_host: int | None = None
) -> Schedule:
    """The whole schedule, all ranks; raises KeyError for an unknown operation or algorithm.

    `per_host`: ranks on each host, for the algorithms that know hosts; default: all on one.
    """
    entry = ALGORITHMS[operation][algorithm]
    steps = tuple(entry.steps_of(rank, size, root, per_host) for rank in range(size))
    return Schedule(operation, algorithm, size, entry.slots(size), root, steps)


@lru_cache(maxsize=1024)
def steps_of(
    operation: str,
    rank: int,
    size: int,
    root: int = 0,
    algorithm: str | None = None,
    per_host: int | None = None,
) -> tuple[Step, ...]:
    """One rank's steps of the algorithm (default: the operation's first), kept between calls."""
    return _entry(operation, algorithm).steps_of(rank, size, root, per_host)


def slots_of(operation: str, size: int, algorithm: str | None = None) -> int:
    """How many slots the algorithm (default: the operation's first) has; see `Schedule`."""
    return _entry(operation, algorithm).slots(size)


def _entry(operation: str, algorithm: str | None) -> Algorithm:
    names = ALGORITHMS[operation]
    return names[next(iter(names)) if algorithm is None else algorithm]
