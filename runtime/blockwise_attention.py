"""Attention to some keys at a time, added to what the queries have seen before.

The softmax is computed online: each query keeps the largest score so far and sums that are
relative to it (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). The
backward pass makes the scores again (Dao, "FlashAttention-2", 2023, section 3.1). Scores exist
only in tiles that fit the cache.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ringlet.nn.backend import block_size, xp
from ringlet.nn.tensor import Array, in_dtype

ROWS, COLUMNS = 128, 512
"""Queries and keys of a tile. ROWS divides COLUMNS, so that every query of a causal tile sees at
least one key of it. Longer tiles leave the second-level cache, shorter ones keep BLAS less busy."""

SCORES = 128 * 1024
"""Scores for each tile, if that takes several heads or samples."""

SIDE = 2048
"""Queries and keys of a tile on a device."""


class Seen(NamedTuple):
    """What R queries know of the keys that they have met. Changed in place."""

    out: Array  # (B, H, R, D): sum of exp(score - maximum) * value
    maximum: Array  # (B, H, R, 1): the largest score
    total: Array  # (B, H, R, 1): sum of exp(score - maximum)


class Wanted(NamedTuple):
    """What the backward pass needs to know of R queries when all keys have been met."""

    maximum: Array  # (B, H, R, 1): see Seen
    grad: Array  # (B, H, R, D): the gradient of the result, divided by the total
    delta: Array  # (B, H, R, 1): sum of grad * result over a head's width


class _Tile(NamedTuple):
    """Some heads of some samples, some of their queries, and keys that these may see."""

    samples: slice
    heads: slice
    rows: slice
    columns: slice

    @property
    def queries(self) -> tuple[slice, ...]:
        return self.samples, self.heads, self.rows

    @property
    def keys(self) -> tuple[slice, ...]:
        return self.samples, self.heads, self.columns


def attend(q: Array, kv: Array, seen: Seen, causal: bool) -> None:
    """Let queries (B, H, R, D) see keys and values (2, B, H, K, D); the result is `seen`.

    Begin with zeros, and a maximum of minus infinity; in the end the attention is out / total.
    Causal: query i sees the keys up to i.
    """
    k, v = kv
    for tile in _tiles(q.shape, k.shape[2], causal):
        scores = _scores(tile, q, k, causal)
        out, maximum, total = (array[tile.queries] for array in seen)
        largest = xp.maximum(maximum, scores.max(axis=-1, keepdims=True))
        scores -= largest
        xp.exp(scores, out=scores)
        shrink = xp.exp(maximum - largest)  # 0 when these keys are the first
        total *= shrink
        total += _row_sums(scores)
        out *= shrink
        out += xp.matmul(scores, v[tile.keys])
        maximum[...] = largest


def attend_backward(
    q: Array, kv: Array, wanted: Wanted, to_q: Array, to_kv: Array, causal: bool
) -> None:
    """Add what comes from these keys to the gradients of the queries, keys and values."""
    (k, v), (to_k, to_v) = kv, to_kv
    for tile in _tiles(q.shape, k.shape[2], causal):
        maximum, grad, delta = (array[tile.queries] for array in wanted)
        exp = _scores(tile, q, k, causal)
        exp -= maximum
        xp.exp(exp, out=exp)
        to_v[tile.keys] += xp.matmul(xp.swapaxes(exp, -1, -2), grad)
        scores = xp.matmul(grad, xp.swapaxes(v[tile.keys], -1, -2))
        scores -= delta
        scores *= exp  # their gradients
        to_q[tile.queries] += xp.matmul(scores, k[tile.keys]) * _scale(q)
        to_k[tile.keys] += xp.matmul(xp.swapaxes(scores, -1, -2), q[tile.queries] * _scale(q))


def row_products(a: Array, b: Array) -> Array:
    """The sums of a * b over the last axis: (..., D), (..., D) -> (..., 1)."""
    return _row_sums(a * b)


def _row_sums(x: Array) -> Array:
    # The product with ones is faster than sum(), which goes row by row.
    sums: Array = xp.matmul(x, xp.ones((x.shape[-1], 1), x.dtype))
    return sums


def _scale(q: Array) -> Any:
    return in_dtype(1 / math.sqrt(q.shape[-1]), q)


def _scores(tile: _Tile, q: Array, k: Array, causal: bool) -> Array:
    """A tile of q k^T / sqrt(D); minus infinity where the key lies ahead of the query."""
    scores: Array = xp.matmul(q[tile.queries] * _scale(q), xp.swapaxes(k[tile.keys], -1, -2))
    rows, columns = scores.shape[-2:]
    first = tile.rows.start - tile.columns.start  # the first query's own column
    if causal and columns > first + 1:
        hidden = xp.arange(first, columns) > first + xp.arange(rows)[:, None]
        xp.copyto(scores[..., first:], -np.inf, where=hidden)
    return scores


def _tiles(shape: tuple[int, ...], keys: int, causal: bool) -> Iterator[_Tile]:
    """Cover all pairs of queries and keys, but those above the diagonal of a causal mask."""
    batch, heads, queries, _ = shape
    size, (height, width) = block_size(SCORES), (ROWS, COLUMNS)
    if size > SCORES:  # on a device
        height = width = SIDE
    tile = max(1, min(height, queries) * min(width, keys))
    matrices = max(1, size // tile)
    some_heads, some_samples = min(heads, matrices), max(1, matrices // max(1, heads))
    for sample, head, row in product(
        range(0, batch, some_samples), range(0, heads, some_heads), range(0, queries, height)
    ):
        samples, together = slice(sample, sample + some_samples), slice(head, head + some_heads)
        rows = slice(row, min(row + height, queries))
        stop = rows.stop if causal else keys
        for column in range(0, stop, width):
            columns = slice(column, min(column + width, stop))
            yield _Tile(samples, together, rows, columns)
