"""Ring attention: attention over a sequence sharded over ranks; see context_parallel.py."""

from collections.abc import Iterator
from typing import Any

from ringlet.comm import Group
from ringlet.nn import Module, Operation, Tensor
from ringlet.nn.autograd.deferred import Gradient
from ringlet.nn.autograd.operations.attention_scores import FirstKeys, KeyMask, Masks
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import xp
from ringlet.nn.models.attention import HeadsAttention
from ringlet.runtime.context.blockwise_attention import Seen, attend, attend_backward
from ringlet.runtime.context.context_parallel import (
    LATE,
    PartialSums,
    chunk_pairs,
    travel,
)


class _Ring(Operation):
    """What the operations share, on an early and a late chunk each: queries (2, B, H, T / 2n, D),
    keys and values (2, 2, B, G, T / 2n, D). Each of the G heads of keys serves H / G of queries.

    Traffic, in units of h = B * (T / n) * G * D elements (the keys and values of one chunk), on n
    ranks. Forward, rank 0 sends (n - 1) h and rank r > 0 sends (2n - 1 - r) h: in all 3/4 of the
    n * (n - 1) * 2h of a plain ring. Backward, keys and values travel again, and rank r sends
    (2n - 2 - r) h of gradients besides: one partial sum for each chunk that it has met.

    Kept for backward: the inputs, the result, and a shift and a sum for each query. The two are the
    log-sum-exp in two parts: in one float32 a large score would swallow the sum. Buffers for
    blocks, of 2h each: two in forward, at most five in backward.
    """

    group: Group
    first: Array | None = None
    """(B, T): the first key of each query of the whole sequence, if texts are packed."""

    def _attend(self, q: Array, own: Array, out: Array) -> None:
        """Write to `out`, an array like `q`."""
        self.seen = Seen.nothing(out)
        for owner, block in travel(self.group, own):
            for queries, keys, masks in self._pairs(owner, q.shape[3]):
                attend(q[queries], block[keys], self.seen.of(queries), masks)
        out /= self.seen.total

    def _attend_backward(
        self, grad: Array, out: Array, q: Array, own: Array, to_q: Array, to_own: Array
    ) -> None:
        """Add to the gradients of the queries and of this rank's keys and values."""
        rank = self.group.rank
        sums = PartialSums(self.group, own.shape, own.dtype)
        for owner, block in travel(self.group, own):
            share = to_own if owner == rank else sums.begin(owner)
            for queries, keys, masks in self._pairs(owner, q.shape[3]):
                arrays = q[queries], block[keys], out[queries]
                gradients = to_q[queries], share[keys]
                seen = self.seen.of(queries)
                attend_backward(*arrays, seen, grad[queries], gradients, masks)
            if owner != rank:
                sums.send(owner, share)
        sums.collect(to_own)

    def _pairs(self, owner: int, length: int) -> Iterator[tuple[int, int, Masks]]:
        """The pairs of chunks of this `length` that have something to compute, and their masks."""
        rank, last = self.group.rank, 2 * self.group.size - 1
        for queries, keys, diagonal in chunk_pairs(rank, owner):
            first = None
            if self.first is not None:
                start = length * (last - rank if queries == LATE else rank)
                before = length * (last - owner if keys == LATE else owner)
                first = (self.first[:, start : start + length] - before).clip(0, length)
                if first.size and first.min() == length:
                    continue
            yield queries, keys, Masks(diagonal, first=first)

    def _check(self, length: int) -> None:
        if length % 2:
            raise ValueError(
                f"this rank's {length} positions cannot be cut into an early and a late chunk: "
                f"take a sequence whose length is a multiple of {2 * self.group.size} (see zigzag)"
            )


class RingAttention(_Ring):
    """Causal self-attention over a sequence that is sharded over the ranks of a group, by zigzag.

    `RingAttention(group, heads)(qkv)`: queries, keys and values of this rank's positions side by
    side, as for `nn.functional.packed_self_attention`: (B, T / n, 3C) -> (B, T / n, C). All ranks
    call it with the same shape, in the same order, and run their backward passes in the same order.

    Raises ValueError if the last axis is not 3 heads' widths, or T / n is odd.
    """

    def __init__(self, group: Group, heads: int, first: Array | None = None) -> None:
        self.group, self.heads, self.first = group, heads, first

    def forward(self, packed: Array) -> Array:
        self.packed = packed
        batch, length, width = self.packed.shape
        if width % (3 * self.heads):
            raise ValueError(f"a last axis of {width} is not 3 x {self.heads} heads of one width")
        self._check(length)
        self.result = xp.empty((batch, length, width // 3), self.packed.dtype)
        qkv = self._chunks(self.packed, 3)
        self._attend(qkv[:, 0], qkv[:, 1:], self._chunks(self.result, 1)[:, 0])
        return self.result

    def backward(self, grad: Array) -> tuple[Gradient]:
        result = xp.zeros(self.packed.shape, self.packed.dtype)
        qkv, to_qkv = self._chunks(self.packed, 3), self._chunks(result, 3)
        grads, out = self._chunks(grad, 1)[:, 0], self._chunks(self.result, 1)[:, 0]
        self._attend_backward(grads, out, qkv[:, 0], qkv[:, 1:], to_qkv[:, 0], to_qkv[:, 1:])
        return (result,)

    def _chunks(self, packed: Array, parts: int) -> Array:
        """(B, T, parts * C) -> a view (2, parts, B, H, T / 2, D): the early chunk and the late."""
        batch, length, width = packed.shape
        shape = (batch, 2, length // 2, parts, self.heads, width // (parts * self.heads))
        return packed.reshape(shape).transpose(1, 3, 0, 4, 2, 5)


class GroupedRingAttention(_Ring):
    """RingAttention of separate queries, keys and values, with grouped queries.

    `GroupedRingAttention(group)(q, k, v)`: (B, H, T / n, D) and (B, G, T / n, D) twice
    -> (B, H, T / n, D). Each of the G heads of keys serves H / G heads of queries, as in
    `nn.functional.scaled_dot_product_attention` with `enable_gqa`; only G heads travel.
    """

    def __init__(self, group: Group, first: Array | None = None) -> None:
        self.group, self.first = group, first

    def forward(self, q: Array, k: Array, v: Array) -> Array:
        if q.shape[1] % k.shape[1]:
            raise ValueError(f"{q.shape[1]} heads of queries cannot share {k.shape[1]} of keys")
        self._check(q.shape[2])
        self.q, self.kv = q, xp.stack([_halves(k), _halves(v)], axis=1)
        self.result = xp.empty(q.shape, q.dtype)
        self._attend(_halves(q), self.kv, _halves(self.result))
        return self.result

    def backward(self, grad: Array) -> tuple[Gradient, Gradient, Gradient]:
        to_q, to_kv = xp.zeros(self.q.shape, self.q.dtype), xp.zeros_like(self.kv)
        q, out = _halves(self.q), _halves(self.result)
        self._attend_backward(_halves(grad), out, q, self.kv, _halves(to_q), to_kv)
        to_k, to_v = (xp.concatenate(list(to_kv[:, part]), axis=2) for part in (0, 1))
        return to_q, to_k, to_v


def _halves(x: Array) -> Array:
    """(B, H, T, D) -> a view (2, B, H, T / 2, D)."""
    batch, heads, length, width = x.shape
    return x.reshape(batch, heads, 2, length // 2, width).transpose(2, 0, 1, 3, 4)


def _first(mask: Any) -> Array | None:
    """The first keys, which are those of the whole sequence; no other mask is possible."""
    if isinstance(mask, FirstKeys):
        return mask.first
    if mask is not None:
        raise ValueError("ring attention has no mask: pad at the end, where no query looks")
    return None


class RingSelfAttention(Module):
    """RingAttention in place of nn.PackedAttention: (B, T / n, 3C) -> (B, T / n, C)."""

    def __init__(self, group: Group, heads: int) -> None:
        self.group, self.heads = group, heads

    def forward(self, qkv: Tensor, mask: KeyMask = None) -> Tensor:
        return RingAttention(self.group, self.heads, _first(mask))(qkv)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, ranks={self.group.size}"


class RingHeadsAttention(HeadsAttention):
    """GroupedRingAttention in place of a causal HeadsAttention without a mask."""

    def __init__(self, group: Group, heads: int, groups: int) -> None:
        super().__init__(heads, groups, causal=True)
        self.group = group

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Any, causal: bool) -> Tensor:
        """(B, H, T / n, D), (B, G, T / n, D) twice -> (B, T / n, H * D)."""
        return self._merge_heads(GroupedRingAttention(self.group, _first(mask))(q, k, v))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ranks={self.group.size}"
