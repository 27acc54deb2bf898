"""Fused attention: scores are computed, used and discarded in tiles that fit the cache.

Tiles above the diagonal of a causal mask are never computed. For long contexts nothing of the size
of the scores is kept: backward recomputes the exponentials from the row sums (Dao et al.,
"FlashAttention", 2022), a tile at a time (Milakov and Gimelshein, "Online normalizer calculation
for softmax", 2018). The softmax stays unnormalized, and the sums are applied to the narrow side
(head width, not context).
"""

import itertools
from typing import NamedTuple

from ringlet.nn.autograd.operations.attention_scores import (
    GemmOperand,
    Masks,
    Scores,
    Tile,
    dropped,
    fold,
    product,
    row_sums,
)
from ringlet.nn.backend import Array, block_size, xp

ROWS = 128
"""Queries in each block of a long context; see `rows_for`."""

SCORES = 128 * 1024
"""Scores in each tile, reached by several samples or only some of the keys: enough to keep BLAS
busy, few enough for the second-level cache."""

KEPT = 1024
"""Exponentials are kept for up to this many keys: recomputing them is two fifths of backward."""


class AttentionBlock(NamedTuple):
    """Some queries, with all keys they attend to."""

    tiles: list[Tile]
    inverse: Array  # (S, H, R, 1): 1 / row sum of exp(scores - shift)
    shift: Array | None  # (S, H, R, 1): the largest scores, if they were subtracted
    exp: list[Array] | None  # each tile's (S, H, R, K), if kept

    @property
    def scores(self) -> int:
        """How many scores were computed."""
        return sum(self.inverse.size * (t.keys.stop - t.keys.start) for t in self.tiles)


def attend(q: Array, k: Array, v: Array, out: Array, masks: Masks) -> list[AttentionBlock]:
    """Write softmax(q k^T / sqrt(D)) v to `out`; returns what the backward pass needs.

    q: (B, H, T, D); k: (B, G, S, D); v: (B, G, S, E); out: (B, H, T, E). Each of the G heads of
    keys and values serves H / G heads of queries. Causal: query i attends to the keys up to
    i + S - T, with a window to the last ones of these. Queries without a key get zeros.
    """
    scores, blocks = Scores(q, k, masks), []
    values = GemmOperand(v, q.shape[2], transposed=False)
    tiled = tiles_of(q, k, masks)
    spare = xp.empty(scores.room(itertools.chain.from_iterable(tiled)), q.dtype)
    for tiles in tiled:
        exp: list[Array] | None = [] if k.shape[2] <= KEPT else None
        rows = out[tiles[0].rows]
        total, shift = scores.weigh_in_range(tiles, values, rows, spare, exp)
        if shift is not None and masks.bias is not None:
            total = xp.maximum(total, 1)
        inverse = 1 / total
        rows *= inverse
        blocks.append(AttentionBlock(tiles, inverse, shift, exp))
    return blocks


def attend_backward(
    blocks: list[AttentionBlock],
    arrays: tuple[Array, Array, Array, Array],
    grad: Array,
    masks: Masks,
    gradients: tuple[Array, Array, Array],
    to_bias: Array | None = None,
    *,
    more: bool = False,
) -> None:
    """Write the gradients of queries, keys and values to `gradients`; with `more`, add them.

    `arrays` are queries, keys, values and the result. The gradient of the bias is added to
    `to_bias`, summed over its axes of length 1.
    """
    q, k, v, out = arrays
    to_q, to_k, to_v = gradients
    scores = Scores(q, k, masks)
    narrow = masks.window > 0 or masks.first is not None  # not all queries attend to all keys
    if narrow and not more:
        to_k.fill(0)
        to_v.fill(0)
    keys = GemmOperand(k, q.shape[2], transposed=False)
    turned_values = GemmOperand(v, q.shape[2], transposed=True)
    room = scores.room(tile for block in blocks for tile in block.tiles)
    spare = xp.empty((2, room), q.dtype)
    for tiles, inverse, shift, kept in reversed(blocks):
        rows = tiles[0].rows
        # The last queries attend to all keys, unless it is narrow: the first block writes, the
        # others add.
        add = more or narrow or tiles[0].queries.stop < q.shape[2]
        queries = scores.queries(tiles[0])
        g = grad[rows] * inverse  # (S, H, R, E)
        delta = row_sums(g * out[rows])  # (S, H, R, 1)
        g = fold(g, scores.groups)
        own = xp.empty(to_q[rows].shape, q.dtype) if more else to_q[rows]
        for number, tile in enumerate(tiles):
            if kept is None:
                exp = scores.exponentials(tile, queries, shift, spare[0])
            else:
                exp = kept[number]
            weights = fold(dropped(exp, masks, tile), scores.groups)
            product(xp.swapaxes(weights, -1, -2), g, to_v[tile.columns], add)
            to_scores = spare[1, : exp.size].reshape(exp.shape)
            folded = to_scores.reshape(weights.shape)
            xp.matmul(g, turned_values(tile), out=folded)
            if masks.keep is not None:
                to_scores *= masks.keep[tile.place]
            to_scores -= delta
            to_scores *= exp
            if to_bias is not None:
                _add_reduced(to_bias, tile, to_scores)
            product(folded, keys(tile), own, add=tile is not tiles[0])
            product(xp.swapaxes(folded, -1, -2), queries, to_k[tile.columns], add)
        own *= scores.scale
        if more:
            to_q[rows] += own


def _add_reduced(total: Array, tile: Tile, part: Array) -> None:
    """Add a tile (S, H, R, K) to its place in an array that may have axes of length 1."""
    single = tuple(axis for axis, length in enumerate(total.shape) if length == 1)
    place = tuple(slice(None) if n in single else s for n, s in enumerate(tile.place))
    total[place] += part.sum(axis=single, keepdims=True)


def rows_for(length: int) -> int:
    """The queries in each block. Smaller blocks compute less above the diagonal, larger ones use
    BLAS better."""
    rows = block_size(ROWS)
    return min(length, rows, max(rows // 2, length // 4))


def tiles_of(q: Array, k: Array, masks: Masks) -> list[list[Tile]]:
    """Each block's tiles; blocks of the same samples are in the order of their queries."""
    (batch, heads, length, _), keys = q.shape, k.shape[2]
    blocks = []
    rows, scores = rows_for(length), block_size(SCORES)
    fitting = scores // max(1, heads * rows * rows) * rows
    columns = min(keys, max(rows, min(2 * rows, fitting)))
    group = max(1, scores // max(1, heads * rows * columns))
    for sample in range(0, batch, group):
        samples = slice(sample, sample + group)
        for start in range(0, length, rows or 1):
            queries = slice(start, min(start + rows, length))
            seen = queries.stop + keys - length if masks.causal else keys
            nearest = start + keys - length + 1 - masks.window if masks.window else 0
            if masks.first is not None:
                nearest = max(nearest, int(masks.first[samples, queries].min(initial=keys)))
            tiles = [
                Tile(samples, queries, slice(first, min(first + columns, seen)))
                for first in range(max(0, nearest), seen, columns)
            ]
            if tiles:
                blocks.append(tiles)
    return blocks
