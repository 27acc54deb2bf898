"""Context parallelism: each rank has a part of every sequence, and keys go round a ring.

Liu, Zaharia and Abbeel, "Ring attention with blockwise transformers for near-infinite context"
(2023). A causal mask would leave the ranks with the first positions idle; the zigzag split of
Megatron-LM gives every rank an early and a late chunk, and the same work in every step of the
ring (cf. Brandon et al., "Striped attention", 2023).

Blocks travel from each rank to the one below. Owner j's late chunk is needed on the ranks below j
only: it stops at rank 0, and only the early chunk goes on round the ring. That saves a quarter of
a plain ring's traffic: every rank receives what it needs and nothing else. What is computed on the
way is in ring_attention.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ringlet.comm import Group, Work
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import xp
from ringlet.runtime.device_collectives import irecv, isend
from ringlet.runtime.mesh import divisors_text

EARLY, LATE = 0, 1

KEYS_AND_VALUES, GRADIENTS, LATE_GRADIENTS = 0xC0, 0xC1, 0xC2
"""Tags. Every rank runs its layers in the same order, so one set serves all layers."""


def zigzag(length: int, size: int, rank: int) -> Array:
    """The positions of this rank, int64 (length / size,): chunks `rank` and 2 size - 1 - `rank`
    of the sequence's 2 size chunks.

    Raises ValueError if the sequence has no 2 size chunks of one length.
    """
    if not 0 <= rank < size:
        raise ValueError(f"there is no rank {rank} among {size}")
    if length % (2 * size):
        below, sizes = length // (2 * size) * 2 * size, divisors_text(length // 2)
        lengths = f"{below} or {below + 2 * size}" if below else str(2 * size)
        fits = "any even number for one rank" if length % 2 else f"a context size of {sizes}"
        raise ValueError(
            f"a sequence of {length} positions cannot be cut into 2 x {size} equal chunks; "
            f"take {lengths} positions, or {fits}"
        )
    chunks = np.arange(length, dtype=np.int64).reshape(2 * size, -1)
    return np.concatenate([chunks[rank], chunks[2 * size - 1 - rank]])


class ChunkPair(NamedTuple):
    """A chunk of this rank's queries and a chunk of an owner's keys, EARLY or LATE each.

    On the diagonal they are the same chunk, and half of the scores are masked.
    """

    queries: int
    keys: int
    diagonal: bool = False


def chunk_pairs(rank: int, owner: int) -> tuple[ChunkPair, ...]:
    """What `rank` computes with the keys of `owner`; no pairs above the diagonal.

    For every rank every step is two pairs' work (two diagonal pairs count as one).
    """
    if owner == rank:
        return ChunkPair(EARLY, EARLY, True), ChunkPair(LATE, EARLY), ChunkPair(LATE, LATE, True)
    if owner < rank:
        return ChunkPair(EARLY, EARLY), ChunkPair(LATE, EARLY)
    return ChunkPair(LATE, EARLY), ChunkPair(LATE, LATE)


def chunks_needed(rank: int, owner: int) -> int:
    """How many of the owner's chunks the rank needs: both, or only the early one."""
    return 2 if owner >= rank else 1


def travel(group: Group, own: Array) -> Iterator[tuple[int, Array]]:
    """Yield (owner, keys and values) for every rank, this one first, then upwards round the ring.

    `own` is (2, 2, B, G, T / 2n, D): keys and values of the early and of the late chunk. A block
    has the same shape, or (1, ...) if only the early chunk is needed here. While the caller
    computes with a block, the next one arrives and this one leaves for the rank below; a block must
    not be changed, nor used once the next was asked for.
    """
    rank, size = group.rank, group.size
    above, below = (rank + 1) % size, (rank - 1) % size
    buffers = xp.empty((min(2, size), *own.shape), own.dtype)
    buffers[0] = own
    owner, block = rank, buffers[0]
    leaving: Work | None = None
    for step in range(1, size):
        following = (rank + step) % size
        if leaving is not None:
            leaving.wait()  # from the other buffer, which is filled anew
        space = buffers[step % 2][: chunks_needed(rank, following)]
        arriving = irecv(group, above, KEYS_AND_VALUES, out=space)
        leaving = isend(group, block[: chunks_needed(below, owner)], below, KEYS_AND_VALUES)
        yield owner, block
        arriving.wait()
        owner, block = following, space
    yield owner, block
    if leaving is not None:
        leaving.wait()


class PartialSums:
    """Gradients of keys and values on their way home: sums that grow from rank to rank.

    They follow the blocks, one step behind, and end at the blocks' owners. A late chunk's sum is
    complete on rank 0, which sends it straight home. A rank computes its own share before it waits
    for the sum from above, which travels meanwhile.
    """

    def __init__(self, group: Group, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._group = group
        self._above, self._below = (group.rank + 1) % group.size, (group.rank - 1) % group.size
        self._shares = xp.empty((min(2, group.size - 1), *shape), dtype)  # in turns
        self._space = xp.empty(shape if group.size > 1 else 0, dtype)
        self._leaving: tuple[list[Work], list[Work]] = ([], [])
        self._arriving: Work | None = None

    def begin(self, owner: int) -> Array:
        """Return zeros to which this rank adds its share of the gradients of the owner's block."""
        step, chunks = self._step(owner), chunks_needed(self._group.rank, owner)
        for work in self._leaving[step % 2]:
            work.wait()
        if step > 1:  # at the first step nobody has met this block before
            space = self._space[:chunks]
            self._arriving = irecv(self._group, self._above, GRADIENTS, out=space)
        share = self._shares[(step - 1) % 2][:chunks]
        share.fill(0)
        return share

    def send(self, owner: int, share: Array) -> None:
        """Add the share to the sum so far, and start to send it on."""
        if self._arriving is not None:
            share += self._arriving.wait()
            self._arriving = None
        rank, works = self._group.rank, self._leaving[self._step(owner) % 2]
        onward = share if rank > 0 else share[:LATE]
        works[:] = [isend(self._group, onward, self._below, GRADIENTS)]
        if len(onward) < len(share):
            works.append(isend(self._group, share[LATE:], owner, LATE_GRADIENTS))

    def collect(self, own: Array) -> None:
        """Add what the others have summed for this rank to its own share."""
        rank, size = self._group.rank, self._group.size
        if size > 1:
            early = self._space[:LATE]
            own[:LATE] += irecv(self._group, self._above, GRADIENTS, out=early).wait()
        if rank > 0:
            late = self._space[LATE:]
            own[LATE:] += irecv(self._group, 0, LATE_GRADIENTS, out=late).wait()
        for work in (*self._leaving[0], *self._leaving[1]):
            work.wait()

    def _step(self, owner: int) -> int:
        return (owner - self._group.rank) % self._group.size
