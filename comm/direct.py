"""Schedules for ranks that can read each other's memory: no messages, only fences and reads.

Slots are numbered as for the schedules of messages (`algorithms`). Between two fences nobody may
write what another reads; `prove_direct` shows it. The scheme is that of direct-access
collectives on shared memory, see Jain et al., "Framework for scalable intra-node collective
operations using shared memory" (SC 2018).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from ringlet.comm.schedule import Copy


@dataclass(frozen=True, slots=True)
class Fence:
    """Wait until every rank has come to this fence."""


@dataclass(frozen=True, slots=True)
class Combine:
    """Combine every rank's slot, in the order of ranks, into this rank's own."""

    slot: int


@dataclass(frozen=True, slots=True)
class Read:
    """Copy a peer's slot `source` into this rank's `slot`."""

    peer: int
    source: int
    slot: int


DirectStep: TypeAlias = Fence | Combine | Read | Copy
DirectAlgorithm: TypeAlias = Callable[[int, int, int], list[DirectStep]]


def all_reduce(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """Each rank combines its own part of the array, then reads the other parts."""
    parts: list[DirectStep] = [Read(peer, peer, peer) for peer in _others(rank, size)]
    return [Fence(), Combine(rank), Fence(), *parts, Fence()]


def all_reduce_whole(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """One slot; every rank combines all of it by itself: one fence, for short arrays.

    Only for staged memory: in place, ranks would overwrite what others still read.
    """
    return [Fence(), Combine(0)]


def reduce_scatter(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """Each rank combines its own part."""
    return [Fence(), Combine(rank), Fence()]


def all_gather(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """Each rank reads every other's slot."""
    return [Fence(), *(Read(peer, peer, peer) for peer in _others(rank, size)), Fence()]


def all_to_all(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """Each rank reads its own part of every other's array."""
    reads = (Read(peer, rank, size + peer) for peer in _others(rank, size))
    return [Fence(), Copy(rank, size + rank), *reads, Fence()]


def broadcast(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """Everybody reads the root's slot."""
    return [Fence(), *([] if rank == root else [Read(root, 0, 0)]), Fence()]


def reduce(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """The root combines everybody's slot."""
    return [Fence(), *([Combine(0)] if rank == root else []), Fence()]


def gather(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """The root reads everybody's slot."""
    return all_gather(rank, size) if rank == root else [Fence(), Fence()]


def scatter(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """Everybody reads its own slot of the root."""
    return [Fence(), *([] if rank == root else [Read(root, rank, rank)]), Fence()]


def barrier(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """A fence."""
    return [Fence()]


DIRECT: dict[str, DirectAlgorithm] = {
    "all_reduce": all_reduce,
    "all_reduce_whole": all_reduce_whole,
    "reduce_scatter": reduce_scatter,
    "all_gather": all_gather,
    "all_to_all": all_to_all,
    "broadcast": broadcast,
    "reduce": reduce,
    "gather": gather,
    "scatter": scatter,
    "barrier": barrier,
}


@lru_cache(maxsize=1024)
def direct_steps(operation: str, rank: int, size: int, root: int) -> tuple[DirectStep, ...]:
    """One rank's steps, kept between calls."""
    return tuple(DIRECT[operation](rank, size, root))


@lru_cache(maxsize=1024)
def reads(operation: str, rank: int, size: int, root: int) -> tuple[tuple[int, int, int], ...]:
    """(reader, read from, slot) of every read in which the rank has a part."""
    found = []
    for reader in range(size):
        for step in direct_steps(operation, reader, size, root):
            if isinstance(step, Read):
                found.append((reader, step.peer, step.source))
            elif isinstance(step, Combine):
                found += [(reader, peer, step.slot) for peer in _others(reader, size)]
    return tuple(entry for entry in found if rank in entry[:2])


def _others(rank: int, size: int) -> list[int]:
    """The other ranks, each rank beginning with the one after it: no two start at the same."""
    return [(rank + distance) % size for distance in range(1, size)]
