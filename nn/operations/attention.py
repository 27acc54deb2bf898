"""Attention, fused: scores are made, used and dropped in blocks that fit the cache.

Blocks above the diagonal of a causal mask are never computed. The softmax is kept unnormalized
with its row sums, and the sums are applied to the narrow side (head width, not context).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ringlet.nn.tensor import Array, Gradient, Operation, Tensor

ROWS = 128
"""Queries for each block of scores."""

SCORES = 128 * 1024
"""Scores for each block, if that takes several samples: enough to keep BLAS busy, few enough for
the second-level cache."""


class _Block(NamedTuple):
    """One block of some samples: some queries of all heads, and the keys that they may see."""

    samples: slice
    queries: slice
    keys: slice
    exp: Array  # (S, H, R, K): exp(scores - row maximum)
    inverse: Array  # (S, H, R, 1): 1 / row sum of exp


def attend(q: Array, k: Array, v: Array, out: Array, causal: bool) -> list[_Block]:
    """softmax(q k^T / sqrt(D)) v into `out`; returns what the backward pass needs.

    q, out: (B, H, T, D); k, v: (B, H, S, D). Causal: query i sees the keys up to i + S - T.
    """
    blocks = []
    scale = np.asarray(1 / math.sqrt(q.shape[-1]), q.dtype)
    for samples, queries, keys in _plan(q.shape, k.shape[2], causal):
        scores = np.matmul(
            q[samples, :, queries] * scale, np.swapaxes(k[samples, :, keys], -1, -2)
        )  # (S, H, R, K)
        if causal:
            _mask(scores, queries.start + k.shape[2] - q.shape[2])
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        inverse = 1 / np.matmul(scores, np.ones((scores.shape[-1], 1), q.dtype))  # (S, H, R, 1)
        target = out[samples, :, queries]
        np.matmul(scores, v[samples, :, keys], out=target)
        target *= inverse
        blocks.append(_Block(samples, queries, keys, scores, inverse))
    return blocks


def attend_backward(
    blocks: list[_Block], q: Array, k: Array, v: Array, out: Array, grad: Array
) -> Iterator[tuple[_Block, Array, Array, Array]]:
    """For each block the gradients of its queries, and its parts of those of keys and values."""
    scale = np.asarray(1 / math.sqrt(q.shape[-1]), q.dtype)
    for block in blocks:
        samples, queries, keys, exp, inverse = block
        g = grad[samples, :, queries] * inverse  # (S, H, R, D)
        to_v = np.matmul(np.swapaxes(exp, -1, -2), g)  # (S, H, K, D)
        delta = np.matmul(
            g * out[samples, :, queries], np.ones((q.shape[-1], 1), q.dtype)
        )  # (S, H, R, 1)
        scores = np.matmul(g, np.swapaxes(v[samples, :, keys], -1, -2))
        scores -= delta
        scores *= exp
        scores *= scale
        to_q = np.matmul(scores, k[samples, :, keys])
        to_k = np.matmul(np.swapaxes(scores, -1, -2), q[samples, :, queries])
        yield block, to_q, to_k, to_v


def _plan(shape: tuple[int, ...], keys: int, causal: bool) -> Iterator[tuple[slice, slice, slice]]:
    batch, heads, length, _ = shape
    group = max(1, SCORES // (heads * min(ROWS, length) * keys))
    for sample in range(0, batch, group):
        for start in range(0, length, ROWS):
            stop = min(start + ROWS, length)
            seen = stop + keys - length if causal else keys
            yield slice(sample, sample + group), slice(start, stop), slice(0, seen)


def _mask(scores: Array, first: int) -> None:
    """Hide what lies ahead: row r sees the columns up to first + r."""
    rows, columns = scores.shape[-2:]
    hidden = np.arange(columns) > first + np.arange(rows)[:, None]
    if hidden.any():
        square = scores[..., first:]  # the columns before `first` are seen by every row
        np.copyto(square, -np.inf, where=hidden[:, first:])


class ScaledDotProductAttention(Operation):
    """softmax(q k^T / sqrt(D)) v. Vaswani et al., "Attention is all you need" (2017), 3.2.1."""

    def __init__(self, causal: bool) -> None:
        self.causal = causal

    def forward(self, *arrays: Array) -> Array:
        self.q, self.k, self.v = arrays
        self.out = np.empty(self.q.shape, self.q.dtype)
        self.blocks = attend(self.q, self.k, self.v, self.out, self.causal)
        return self.out

    def backward(self, grad: Array) -> Sequence[Gradient]:
        to_q, to_k, to_v = np.empty_like(self.q), np.zeros_like(self.k), np.zeros_like(self.v)
        parts = attend_backward(self.blocks, self.q, self.k, self.v, self.out, grad)
        for block, q, k, v in parts:
            to_q[block.samples, :, block.queries] = q
            to_k[block.samples, :, block.keys] += k
            to_v[block.samples, :, block.keys] += v
        return to_q, to_k, to_v


class PackedSelfAttention(Operation):
    """Self-attention over queries, keys and values that lie side by side: (B, T, 3C) -> (B, T, C).

    Saves the copies that splitting, transposing and joining heads would take.
    """

    def __init__(self, heads: int, causal: bool) -> None:
        self.heads, self.causal = heads, causal

    def _heads(self, packed: Array, parts: int) -> list[Array]:
        """(B, T, parts * C) -> parts views of (B, H, T, D)."""
        batch, length, _ = packed.shape
        view = packed.reshape(batch, length, parts, self.heads, -1)
        return [view[:, :, part].transpose(0, 2, 1, 3) for part in range(parts)]

    def forward(self, *arrays: Array) -> Array:
        (self.packed,) = arrays
        batch, length, width = self.packed.shape
        self.result = np.empty((batch, length, width // 3), self.packed.dtype)
        q, k, v = self._heads(self.packed, 3)
        (out,) = self._heads(self.result, 1)
        self.blocks = attend(q, k, v, out, self.causal)
        return self.result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        result = np.empty(self.packed.shape, self.packed.dtype)
        q, k, v = self._heads(self.packed, 3)
        to_q, to_k, to_v = self._heads(result, 3)
        (out,), (g,) = self._heads(self.result, 1), self._heads(grad, 1)
        for block, q_part, k_part, v_part in attend_backward(self.blocks, q, k, v, out, g):
            samples, queries, keys = block.samples, block.queries, block.keys

            if (
                queries.start == 0
            ):  # a sample's first block writes, and clears what only later blocks see
                to_k[samples, :, keys.stop :] = 0
                to_v[samples, :, keys.stop :] = 0
                to_k[samples, :, keys], to_v[samples, :, keys] = k_part, v_part
            else:
                to_k[samples, :, keys] += k_part
                to_v[samples, :, keys] += v_part
            to_q[samples, :, queries] = q_part
        return (result,)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v: (B, H, T, D), (B, H, S, D), (B, H, S, D) -> (B, H, T, D).

    Causal: the last query sees all keys, each earlier one a key less. Raises ValueError with
    the shapes if they do not fit.
    """
    same = query.shape[:2] == key.shape[:2] and query.shape[3:] == key.shape[3:]
    if query.ndim != 4 or not same or key.shape != value.shape:
        raise ValueError(f"q {query.shape}, k {key.shape} and v {value.shape} do not fit")
    if is_causal and query.shape[2] > key.shape[2]:
        raise ValueError(f"{query.shape[2]} causal queries for {key.shape[2]} keys")
    return ScaledDotProductAttention(is_causal)(query, key, value)


def packed_self_attention(qkv: Tensor, heads: int, is_causal: bool = True) -> Tensor:
    """Self-attention of queries, keys and values side by side: (B, T, 3C) -> (B, T, C)."""
    if qkv.shape[-1] % (3 * heads):
        raise ValueError(f"a last axis of {qkv.shape[-1]} is not 3 x {heads} heads of one width")
    return PackedSelfAttention(heads, is_causal)(qkv)
