"""Context parallelism: each rank has a part of every sequence, and attention goes round a ring.

Liu, Zaharia and Abbeel, "Ring attention with blockwise transformers for near-infinite context"
(2023). A causal mask would leave the ranks with the first positions idle; the zigzag split of
Megatron-LM gives every rank an early and a late chunk, and the same work in every step of the
ring (cf. Brandon et al., "Striped attention", 2023).

Blocks travel from each rank to the one below. Owner j's late chunk is needed on the ranks below j
only: it stops at rank 0, and just the early chunk goes on round the ring. That saves a quarter of
a plain ring's traffic: every rank receives what it needs and nothing else.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ringlet.comm import Group
from ringlet.comm.work import Work
from ringlet.nn import Module, Operation, Tensor
from ringlet.nn.tensor import Array, Gradient
from ringlet.runtime.blockwise_attention import Seen, Wanted, attend, attend_backward, row_products

EARLY, LATE = 0, 1

KEYS_AND_VALUES, GRADIENTS, LATE_GRADIENTS = 0xC0, 0xC1, 0xC2
"""Tags. Every rank runs its layers in the same order, so one set serves all of them."""


def zigzag(length: int, size: int, rank: int) -> Array:
    """The positions of this rank, int64 (length / size,): chunks `rank` and 2 size - 1 - `rank`
    of the sequence's 2 size chunks.

    Raises ValueError if the sequence has no 2 size chunks of one length.
    """
    if not 0 <= rank < size:
        raise ValueError(f"there is no rank {rank} among {size}")
    if length % (2 * size):
        raise ValueError(
            f"a sequence of {length} positions cannot be cut into 2 x {size} equal chunks; "
            f"take {_fitting_lengths(length, size)} positions, or {_fitting_sizes(length)}"
        )
    chunks = np.arange(length, dtype=np.int64).reshape(2 * size, -1)
    return np.concatenate([chunks[rank], chunks[2 * size - 1 - rank]])


def _fitting_lengths(length: int, size: int) -> str:
    below = length // (2 * size) * 2 * size
    return f"{below} or {below + 2 * size}" if below else str(2 * size)


def _fitting_sizes(length: int) -> str:
    sizes = [str(size) for size in range(1, length // 2 + 1) if length % (2 * size) == 0]
    return f"a context size of {', '.join(sizes)}" if sizes else "any even number for one rank"


class Pair(NamedTuple):
    """A chunk of this rank's queries and a chunk of an owner's keys: EARLY or LATE each.

    On the diagonal they are the same chunk, and half of the scores are masked.
    """

    queries: int
    keys: int
    diagonal: bool = False


def chunk_pairs(rank: int, owner: int) -> tuple[Pair, ...]:
    """What `rank` computes with the keys of `owner`; the pairs above the diagonal are left out.

    It is two chunk pairs' work for every rank in every step (two diagonal pairs make one).
    """
    if owner == rank:
        return Pair(EARLY, EARLY, True), Pair(LATE, EARLY), Pair(LATE, LATE, True)
    if owner < rank:
        return Pair(EARLY, EARLY), Pair(LATE, EARLY)
    return Pair(LATE, EARLY), Pair(LATE, LATE)


def chunks_needed(rank: int, owner: int) -> int:
    """How many of the owner's chunks the rank needs: both, or the early one."""
    return 2 if owner >= rank else 1


def travel(group: Group, own: Array) -> Iterator[tuple[int, Array]]:
    """Yield (owner, keys and values) for every rank, this one first, then upwards round the ring.

    `own` is (2, 2, B, H, T / 2n, D): keys and values of the early chunk and of the late one. A
    block has the same shape, or (1, ...) if only the early chunk is needed here. While the caller
    computes with a block the next one arrives, and this one leaves for the rank below; a block
    must not be changed, nor used after the next was asked for.
    """
    rank, size = group.rank, group.size
    above, below = (rank + 1) % size, (rank - 1) % size
    buffers = np.empty((min(2, size), *own.shape), own.dtype)
    buffers[0] = own
    owner, block = rank, buffers[0]
    leaving: Work | None = None
    for step in range(1, size):
        following = (rank + step) % size
        if leaving is not None:
            leaving.wait()  # from the other buffer, which is filled anew
        space = buffers[step % 2][: chunks_needed(rank, following)]
        arriving = group.irecv(above, KEYS_AND_VALUES, out=space)
        leaving = group.isend(block[: chunks_needed(below, owner)], below, KEYS_AND_VALUES)
        yield owner, block
        arriving.wait()
        owner, block = following, space
    yield owner, block
    if leaving is not None:
        leaving.wait()


class PartialSums:
    """The gradients of keys and values on their way home: sums that grow from rank to rank.

    They follow the blocks, one step behind, and end at the blocks' owners. A late chunk's sum is
    complete on rank 0, which sends it straight home. A rank adds up its own share before it waits
    for the sum from above, so that this travels while the rank computes.
    """

    def __init__(self, group: Group, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._group = group
        self._above, self._below = (group.rank + 1) % group.size, (group.rank - 1) % group.size
        self._shares = np.empty((min(2, group.size - 1), *shape), dtype)  # in turns
        self._space = np.empty(shape if group.size > 1 else 0, dtype)
        self._leaving: tuple[list[Work], list[Work]] = ([], [])
        self._arriving: Work | None = None

    def begin(self, owner: int) -> Array:
        """Zeros, to which this rank's share of the gradients of the owner's block is added."""
        step, chunks = self._step(owner), chunks_needed(self._group.rank, owner)
        for work in self._leaving[step % 2]:
            work.wait()
        if step > 1:  # at the first step nobody has met this block before
            space = self._space[:chunks]
            self._arriving = self._group.irecv(self._above, GRADIENTS, out=space)
        share: Array = self._shares[(step - 1) % 2][:chunks]
        share.fill(0)
        return share

    def send(self, owner: int, share: Array) -> None:
        """Add the share to the sum so far, and start to send that on its way."""
        if self._arriving is not None:
            share += self._arriving.wait()
            self._arriving = None
        rank, works = self._group.rank, self._leaving[self._step(owner) % 2]
        onward = share if rank > 0 else share[:LATE]
        works[:] = [self._group.isend(onward, self._below, GRADIENTS)]
        if len(onward) < len(share):
            works.append(self._group.isend(share[LATE:], owner, LATE_GRADIENTS))

    def collect(self, own: Array) -> None:
        """Add to this rank's own share what the others have summed up for it."""
        rank, size = self._group.rank, self._group.size
        if size > 1:
            early = self._space[:LATE]
            own[:LATE] += self._group.recv(self._above, GRADIENTS, out=early)
        if rank > 0:
            late = self._space[LATE:]
            own[LATE:] += self._group.recv(0, LATE_GRADIENTS, out=late)
        for work in (*self._leaving[0], *self._leaving[1]):
            work.wait()

    def _step(self, owner: int) -> int:
        return (owner - self._group.rank) % self._group.size


class RingAttention(Operation):
    """Causal self-attention over a sequence that is split over the ranks of a group, by zigzag.

    `RingAttention(group, heads)(qkv)`: queries, keys and values of this rank's positions side by
    side, as for `nn.functional.packed_self_attention`: (B, T / n, 3C) -> (B, T / n, C). All ranks
    call it with the same shape, in the same order, and run their backward passes in the same order.

    Traffic, in units of h = B * (T / n) * C elements (the keys and values of one chunk), on n
    ranks. Forward, rank 0 sends (n - 1) h and rank r > 0 sends (2n - 1 - r) h: in all 3/4 of the
    n * (n - 1) * 2h of a plain ring. Backward, keys and values travel again, and rank r sends
    (2n - 2 - r) h of gradients besides: one partial sum for each chunk that it has met.

    Kept for backward: qkv, the result, and the largest score and the sum of each query. These two
    are the log-sum-exp in two parts: one float32 would lose the sum beside a large score. Buffers
    for blocks, of 2h each: two in forward, at most five in backward.

    Raises ValueError if the last axis is not 3 heads' widths, or T / n is odd.
    """

    def __init__(self, group: Group, heads: int) -> None:
        self.group, self.heads = group, heads

    def forward(self, *arrays: Array) -> Array:
        (self.packed,) = arrays
        self._check()
        batch, length, width = self.packed.shape
        self.result = np.zeros((batch, length, width // 3), self.packed.dtype)
        qkv, out = self._chunks(self.packed, 3), self._chunks(self.result, 1)[:, 0]
        self.maximum = np.full((*out.shape[:-1], 1), -np.inf, out.dtype)
        self.total = np.zeros_like(self.maximum)
        seen = [Seen(*parts) for parts in zip(out, self.maximum, self.total, strict=True)]
        for owner, block in travel(self.group, qkv[:, 1:]):
            for queries, keys, diagonal in chunk_pairs(self.group.rank, owner):
                attend(qkv[queries, 0], block[keys], seen[queries], diagonal)
        out /= self.total
        return self.result

    def backward(self, grad: Array) -> tuple[Gradient]:
        rank, qkv = self.group.rank, self._chunks(self.packed, 3)
        result = np.zeros(self.packed.shape, self.packed.dtype)
        to_qkv = self._chunks(result, 3)
        to_q, own = to_qkv[:, 0], to_qkv[:, 1:]
        wanted = self._wanted(grad)
        sums = PartialSums(self.group, own.shape, own.dtype)
        for owner, block in travel(self.group, qkv[:, 1:]):
            share = own if owner == rank else sums.begin(owner)
            for queries, keys, diagonal in chunk_pairs(rank, owner):
                q, gradients = qkv[queries, 0], (to_q[queries], share[keys])
                attend_backward(q, block[keys], wanted[queries], *gradients, diagonal)
            if owner != rank:
                sums.send(owner, share)
        sums.collect(own)
        return (result,)

    def _wanted(self, grad: Array) -> list[Wanted]:
        out = self._chunks(self.result, 1)[:, 0]
        grads = self._chunks(grad, 1)[:, 0] / self.total
        deltas = row_products(grads, out)
        return [Wanted(*parts) for parts in zip(self.maximum, grads, deltas, strict=True)]

    def _chunks(self, packed: Array, parts: int) -> Array:
        """(B, T, parts * C) -> a view (2, parts, B, H, T / 2, D): the early chunk and the late."""
        batch, length, width = packed.shape
        shape = (batch, 2, length // 2, parts, self.heads, width // (parts * self.heads))
        return packed.reshape(shape).transpose(1, 3, 0, 4, 2, 5)

    def _check(self) -> None:
        _, length, width = self.packed.shape
        if width % (3 * self.heads):
            raise ValueError(f"a last axis of {width} is not 3 x {self.heads} heads of one width")
        if length % 2:
            raise ValueError(
                f"this rank's {length} positions cannot be cut into an early and a late chunk: "
                f"take a sequence whose length is a multiple of {2 * self.group.size} (see zigzag)"
            )


class RingSelfAttention(Module):
    """RingAttention in the place of nn.PackedAttention: (B, T / n, 3C) -> (B, T / n, C)."""

    def __init__(self, group: Group, heads: int) -> None:
        self.group, self.heads = group, heads

    def forward(self, qkv: Tensor) -> Tensor:
        """See the class."""
        return RingAttention(self.group, self.heads)(qkv)

    def describe(self) -> str:
        """See Module."""
        return f"heads={self.heads}, ranks={self.group.size}"
