"""Attention to one block of keys at a time, added to what the queries have seen before.

Blocks are combined by an online softmax: the sums of each are relative to a shift of their own for
each query (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). The work is
done by nn.autograd.operations.tiled_attention.
"""

import itertools
from typing import NamedTuple

import numpy as np

from ringlet.nn.autograd.operations.attention_scores import GemmOperand, Masks, Scores
from ringlet.nn.autograd.operations.tiled_attention import AttentionBlock, tiles_of
from ringlet.nn.autograd.operations.tiled_attention import attend_backward as attend_backward_to_all
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import chosen, xp


class Seen(NamedTuple):
    """What R queries know of the keys that they have seen; changed in place."""

    out: Array  # (B, H, R, D): sum of exp(score - shift) * value
    shift: Array  # (B, H, R, 1): 0, or a large score where exponentials would overflow
    total: Array  # (B, H, R, 1): sum of exp(score - shift)

    @classmethod
    def nothing(cls, out: Array) -> "Seen":
        """Begin with no keys; `out` is overwritten."""
        out.fill(0)
        column = (*out.shape[:-1], 1)
        return cls(out, xp.full(column, -np.inf, out.dtype), xp.zeros(column, out.dtype))

    def of(self, chunk: int) -> "Seen":
        """What the queries of one of several chunks (..., B, H, R, D) know."""
        return Seen(*(array[chunk] for array in self))


def attend(q: Array, kv: Array, seen: Seen, masks: Masks) -> None:
    """Let queries (B, H, R, D) see keys and values (2, B, G, K, D); adds to `seen`.

    Each of the G heads of keys serves H / G heads of queries. In the end the attention is
    out / total. Causal: query i sees the keys up to i.
    """
    scores, tiled = Scores(q, kv[0], masks), tiles_of(q, kv[0], masks)
    values = GemmOperand(kv[1], q.shape[2], transposed=False)
    spare = xp.empty(scores.room(itertools.chain.from_iterable(tiled)), q.dtype)
    for tiles in tiled:
        out, before, total = (array[tiles[0].rows] for array in seen)
        part = xp.empty(out.shape, out.dtype)
        sums, shift = scores.weigh_in_range(tiles, values, part, spare, None)
        after = xp.maximum(before, 0 if shift is None else shift)
        shrink = xp.exp(before - after)  # 0 when these keys are the first
        grow = xp.exp((0 if shift is None else shift) - after)
        for whole, more in ((out, part), (total, sums)):
            whole *= shrink
            more *= grow
            whole += more
        before[...] = after


def attend_backward(
    q: Array,
    kv: Array,
    out: Array,
    seen: Seen,
    grad: Array,
    gradients: tuple[Array, Array],
    masks: Masks,
) -> None:
    """Add what comes from these keys to the gradients of the queries, and of keys and values.

    `out` is the attention over all keys, and `grad` its gradient.
    """
    to_q, to_kv = gradients
    blocks = []
    for tiles in tiles_of(q, kv[0], masks):
        _, shift, total = (array[tiles[0].rows] for array in seen)
        shifted = chosen().on_device or shift.any()
        blocks.append(AttentionBlock(tiles, 1 / total, shift if shifted else None, None))
    attend_backward_to_all(blocks, (q, *kv, out), grad, masks, (to_q, *to_kv), more=True)
