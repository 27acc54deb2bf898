"""Schedules for ranks that can read each other's memory: no messages, only fences and reads.

Slots are numbered as for the schedules of messages (`algorithms`). Between two fences nobody may
write what another reads or writes; `prove_direct` shows it. The scheme is that of direct-access
collectives on shared memory, see Jain et al., "Framework for scalable intra-node collective
operations using shared memory" (SC 2018).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from ringlet.comm.schedules.schedule import Copy


@dataclass(frozen=True, slots=True)
class Fence:
    """Wait until every rank has come to this fence."""


@dataclass(frozen=True, slots=True)
class Combine:
    """Combine every rank's slot, in the order of ranks, into this rank's own."""

    slot: int


@dataclass(frozen=True, slots=True)
class Share:
    """Combine every rank's slot, in the order of ranks, and store the result in all of them.

    In one pass: a block is stored everywhere while it is still in the cache, and the memory is
    read once and written once, which is the least that an all-reduce can do.
    """

    slot: int
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """Copy a chunk of the slots that other ranks combine to where they can reach it."""

    chunk: int


@dataclass(frozen=True, slots=True)
class Unstage:
    """Copy the results of a chunk, which the other ranks have stored there, back."""

    chunk: int


@dataclass(frozen=True, slots=True)
class Read:
    """Copy a peer's slot `source` into this rank's `slot`."""

    peer: int
    source: int
    slot: int


DirectStep: TypeAlias = Fence | Combine | Share | Read | Copy | Stage | Unstage
DirectAlgorithm: TypeAlias = Callable[[int, int, int], list[DirectStep]]


def all_reduce(rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """Each rank combines its own part of the array, for all."""
    return [Fence(), Share(rank), Fence()]


def all_reduce_staged(rank: int, size: int, chunks: int) -> Iterator[DirectStep]:
    """The same for arrays that the others cannot reach: chunk by chunk, one fence for each.

    Chunks use two staging areas in turns. Between two fences a rank combines one chunk, fetches
    the results of the one before, and stages the next where these were.
    """
    yield Stage(0)
    for chunk in range(chunks):
        yield Fence()
        if chunk:
            yield Unstage(chunk - 1)
        if chunk + 1 < chunks:
            yield Stage(chunk + 1)
        yield Share(rank, chunk)
    yield Fence()
    yield Unstage(chunks - 1)


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
def transfers(operation: str, rank: int, size: int, root: int) -> tuple[tuple[int, int, int], ...]:
    """(to, from, slot) of everything that the rank takes from a peer's memory or a peer from its,
    and of what it stores there or they here."""
    found = []
    for actor in range(size):
        others = _others(actor, size)
        for step in direct_steps(operation, actor, size, root):
            if isinstance(step, Read):
                found.append((actor, step.peer, step.source))
            elif isinstance(step, Combine | Share):
                found += [(actor, peer, step.slot) for peer in others]
            if isinstance(step, Share):
                found += [(peer, actor, step.slot) for peer in others]
    return tuple(entry for entry in found if rank in entry[:2])


def _others(rank: int, size: int) -> list[int]:
    """The other ranks, each rank beginning with the one after it: no two start at the same."""
    return [(rank + distance) % size for distance in range(1, size)]
