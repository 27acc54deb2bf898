"""Schedules for ranks that reach each other's memory: no messages, only fences and moves.

There is one step, the `Move`: some places get what other places hold together. Slots are numbered
as in the schedules of messages (`algorithms`). Between two fences no rank may touch what another
writes; `prove_direct` shows that none does. Direct access is the scheme of
Jain et al., "Framework for scalable intra-node collective operations using shared memory" (2018).
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Generic, NamedTuple, TypeAlias, TypeVar

ARRAY, STAGED = "array", "staged"
"""A rank's array, and its staging areas: where it copies what its peers cannot reach."""

AREAS = 2
"""A rank has two staging areas. While one chunk is in use, the next is staged in the other."""


class Place(NamedTuple):
    """A piece (`chunk`) of a slot of one rank's memory; staged, it lies in area chunk % AREAS."""

    rank: int
    slot: int
    chunk: int = 0
    memory: str = ARRAY


P = TypeVar("P")


class Move(NamedTuple, Generic[P]):
    """Every target gets what the sources hold, combined in the order of ranks."""

    targets: tuple[P, ...]
    sources: tuple[P, ...]


class Fence(NamedTuple):
    """Wait until every rank has reached this fence."""


DirectStep: TypeAlias = Move[Place] | Fence
Moves: TypeAlias = Callable[[int, int, int], list[Move[Place]]]


def all_reduce(rank: int, size: int, root: int) -> list[Move[Place]]:
    """Combine this rank's slot for all: a block is stored everywhere while it is in the cache, and
    memory is read once and written once, the least that an all-reduce can do."""
    everywhere = _everywhere(size, rank)
    return [Move(everywhere, everywhere)]


def all_reduce_whole(rank: int, size: int, root: int) -> list[Move[Place]]:
    """One slot, which every rank combines for itself. For short arrays, staged: saves a fence."""
    return [Move((Place(rank, 0),), _everywhere(size, 0))]


def reduce_scatter(rank: int, size: int, root: int) -> list[Move[Place]]:
    """Combine this rank's slot."""
    return [Move((Place(rank, rank),), _everywhere(size, rank))]


def all_gather(rank: int, size: int, root: int) -> list[Move[Place]]:
    """Read every other rank's slot."""
    return [_read(rank, peer, peer) for peer in _others(rank, size)]


def all_to_all(rank: int, size: int, root: int) -> list[Move[Place]]:
    """Read this rank's slot of every array; slots from `size` on are the array received."""
    return [_read(rank, peer, rank, size + peer) for peer in (rank, *_others(rank, size))]


def broadcast(rank: int, size: int, root: int) -> list[Move[Place]]:
    """Read the root's slot."""
    return [] if rank == root else [_read(rank, root, 0)]


def reduce(rank: int, size: int, root: int) -> list[Move[Place]]:
    """Combine all slots on the root."""
    return [Move((Place(root, 0),), _everywhere(size, 0))] if rank == root else []


def gather(rank: int, size: int, root: int) -> list[Move[Place]]:
    """Read all slots on the root."""
    return all_gather(rank, size, root) if rank == root else []


def scatter(rank: int, size: int, root: int) -> list[Move[Place]]:
    """Read this rank's slot of the root."""
    return [] if rank == root else [_read(rank, root, rank)]


MOVES: dict[str, Moves] = {
    "all_reduce": all_reduce,
    "all_reduce_whole": all_reduce_whole,
    "reduce_scatter": reduce_scatter,
    "all_gather": all_gather,
    "all_gather_shards": all_gather,  # of one array, in place
    "all_to_all": all_to_all,
    "broadcast": broadcast,
    "reduce": reduce,
    "gather": gather,
    "scatter": scatter,
}
"""What a rank of `size` does between two fences, by operation."""


def direct_steps(operation: str, rank: int, size: int, root: int = 0) -> list[DirectStep]:
    """One rank's steps on arrays that all ranks can reach."""
    if operation == "barrier":
        return [Fence()]
    return [Fence(), *MOVES[operation](rank, size, root), Fence()]


def staged_steps(
    operation: str, rank: int, size: int, root: int = 0, chunks: int = 1
) -> Iterator[DirectStep]:
    """One rank's steps on arrays that the others cannot reach, in chunks.

    The areas take turns: the fence after staging a chunk ends the use of the one before the last.
    """
    if operation == "all_reduce":
        yield from _all_reduce_staged(rank, size, chunks)
        return
    moves = MOVES[operation](rank, size, root)
    for chunk in range(chunks):
        yield from _stage(operation, rank, size, root, chunk)
        yield Fence()
        for targets, sources in moves:
            yield Move(
                tuple(place._replace(chunk=chunk) for place in targets),
                tuple(_reached(place, rank, chunk) for place in sources),
            )


def _all_reduce_staged(rank: int, size: int, chunks: int) -> Iterator[DirectStep]:
    """Between two fences: fetch the results of the last chunk, stage the next in their place, and
    combine this rank's part of the present one."""
    stage = [list(_stage("all_reduce", rank, size, 0, chunk)) for chunk in range(chunks)]
    yield from stage[0]
    for chunk in range(chunks):
        yield Fence()
        if chunk:
            yield from (Move(sources, targets) for targets, sources in stage[chunk - 1])
        if chunk + 1 < chunks:
            yield from stage[chunk + 1]
        reached = tuple(_reached(place, rank, chunk) for place in _everywhere(size, rank))
        yield Move(reached, reached)
    yield Fence()
    yield from (Move(sources, targets) for targets, sources in stage[-1])


@lru_cache(maxsize=1024)
def staged_slots(operation: str, rank: int, size: int, root: int = 0) -> tuple[int, ...]:
    """The slots of a rank that other ranks read, in the order in which they are staged."""
    read = {
        source.slot
        for reader in _others(rank, size)
        for move in MOVES[operation](reader, size, root)
        for source in move.sources
        if source.rank == rank
    }
    return tuple(sorted(read))


@lru_cache(maxsize=1024)
def transfers(operation: str, rank: int, size: int, root: int) -> tuple[tuple[int, int, int], ...]:
    """(receiver, sender, sender's slot) of everything that passes between the rank and a peer:
    what it reads or stores in a peer's memory, and a peer in its."""
    if operation == "barrier":
        return ()
    found = [
        (receiver.rank, sender.rank, sender.slot)
        for actor in range(size)
        for move in MOVES[operation](actor, size, root)
        for receiver, sender in crossings(move, actor)
    ]
    return tuple(entry for entry in found if rank in entry[:2])


def crossings(move: Move[Place], actor: int) -> Iterator[tuple[Place, Place]]:
    """(to, from) of everything that a move of the actor carries from one rank to another."""
    mine = next(place for place in move.targets if place.rank == actor)
    yield from ((mine, source) for source in move.sources if source.rank != actor)
    yield from ((target, mine) for target in move.targets if target.rank != actor)


def _stage(operation: str, rank: int, size: int, root: int, chunk: int) -> Iterator[Move[Place]]:
    for slot in staged_slots(operation, rank, size, root):
        own = Place(rank, slot, chunk)
        yield Move((own._replace(memory=STAGED),), (own,))


def _reached(place: Place, rank: int, chunk: int) -> Place:
    """The place as this rank reaches it: its own array, or what a peer has staged."""
    return place._replace(chunk=chunk, memory=ARRAY if place.rank == rank else STAGED)


def _read(rank: int, peer: int, slot: int, into: int | None = None) -> Move[Place]:
    return Move((Place(rank, slot if into is None else into),), (Place(peer, slot),))


def _everywhere(size: int, slot: int) -> tuple[Place, ...]:
    return tuple(Place(rank, slot) for rank in range(size))


def _others(rank: int, size: int) -> list[int]:
    """The other ranks, each rank beginning with the one after it: no two start at the same."""
    return [(rank + distance) % size for distance in range(1, size)]
