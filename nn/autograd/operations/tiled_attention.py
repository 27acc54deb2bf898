"""Attention, fused: scores are made, used and dropped in tiles that fit the cache.

Tiles above the diagonal of a causal mask are never computed. For long contexts nothing of the size
of the scores is kept: backward makes the exponentials again from the row sums (Dao et al.,
"FlashAttention", 2022), a tile at a time (Milakov and Gimelshein, "Online normalizer calculation
for softmax", 2018). The softmax is kept unnormalized, and the sums are applied to the narrow side
(head width, not context).

To find each row's largest score and subtract it takes as long as the exponentials. It is needed
only where these overflow, or underflow all together; the row sums tell.
"""

import functools
import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ringlet.nn.autograd.conversion import in_dtype
from ringlet.nn.backend import Array, block_size, chosen, xp

ROWS = 128
"""Queries for each block of a long context; see `rows_for`."""

SCORES = 128 * 1024
"""Scores for each tile, if that takes several samples or not all keys: enough to keep BLAS busy,
few enough for the second-level cache."""

KEPT = 1024
"""For up to so many keys the exponentials are kept: making them again is two fifths of backward."""


class Tile(NamedTuple):
    """Some samples' scores of some queries of all heads, for some of the keys that they see."""

    samples: slice
    queries: slice
    keys: slice

    @property
    def rows(self) -> tuple[slice, ...]:
        """Where its queries are in an array (B, H, T, D)."""
        return self.samples, slice(None), self.queries

    @property
    def columns(self) -> tuple[slice, ...]:
        """Where its keys are in an array (B, G, S, D)."""
        return self.samples, slice(None), self.keys

    @property
    def place(self) -> tuple[slice, ...]:
        """Where it is in an array (B, H, T, S)."""
        return self.samples, slice(None), self.queries, self.keys


class Block(NamedTuple):
    """Some queries, with all keys that they see."""

    tiles: list[Tile]
    inverse: Array  # (S, H, R, 1): 1 / row sum of exp(scores - shift)
    shift: Array | None  # (S, H, R, 1): the largest scores, if they had to be subtracted
    exp: list[Array] | None  # of each tile (S, H, R, K), if they are kept

    @property
    def scores(self) -> int:
        """How many scores were made."""
        return sum(self.inverse.size * (t.keys.stop - t.keys.start) for t in self.tiles)


class Masks(NamedTuple):
    """What is done to the scores; arrays are broadcast to (B, H, T, S) by `attend`'s callers."""

    causal: bool = False
    bias: Array | None = None
    """Added to the scores, or bool: scores where it is false count as minus infinity."""

    keep: Array | None = None
    """Dropout: what the probabilities are multiplied by."""

    scale: float | None = None
    """Of the scores; 1 / sqrt(D) if it is None."""

    def factor(self, q: Array) -> Any:
        """The scale in the dtype of `q`."""
        return in_dtype(self.scale or 1 / math.sqrt(q.shape[-1]), q)


PLAIN, CAUSAL = Masks(), Masks(causal=True)


class GemmOperand:
    """Keys or values as the second operand of products: a copy that lies as it is multiplied, of
    the samples at hand. Products with strided or transposed ones take a third longer; for few
    queries a copy would not pay, nor on a device."""

    FROM = 16
    """Queries."""

    STEP = 64
    """Keys that are transposed at once: what is read stays in the first-level cache."""

    def __init__(self, x: Array, queries: int, transposed: bool) -> None:
        self._x, self._transposed = x, transposed
        self._copied = queries >= self.FROM and not chosen().on_device
        self._samples: slice | None = None

    def __call__(self, tile: Tile) -> Array:
        """Of the tile's samples and keys: (S, G, K, D), or (S, G, D, K) if it is transposed."""
        if tile.samples != self._samples:
            self._samples, self._laid = tile.samples, self._lay(self._x[tile.samples])
        return self._laid[..., tile.keys] if self._transposed else self._laid[:, :, tile.keys]

    def _lay(self, x: Array) -> Array:
        if not self._transposed:
            return xp.ascontiguousarray(x) if self._copied else x
        turned = xp.swapaxes(x, -1, -2)
        if not self._copied:
            return turned
        # Rows that are a multiple of 1 KiB long would compete for the same places of that cache.
        length = x.shape[2]
        room = length + (16 if length * x.itemsize % 1024 == 0 else 0)
        laid = xp.empty((*turned.shape[:3], room), x.dtype)[..., :length]
        for start in range(0, length, self.STEP):
            some = slice(start, start + self.STEP)
            laid[..., some] = turned[..., some]
        return laid


class Scores:
    """Makes the exponentials of scores, tile by tile."""

    def __init__(self, q: Array, k: Array, masks: Masks) -> None:
        self.q, self.masks = q, masks
        self.scale, (_, self.groups, self.keys, _) = masks.factor(q), k.shape
        self._turned = GemmOperand(k, q.shape[2], transposed=True)

    def queries(self, tile: Tile) -> Array:
        """The tile's queries, scaled: (S, G, H / G * R, D)."""
        return _fold(self.q[tile.rows] * self.scale, self.groups)

    def make(self, tile: Tile, queries: Array, out: Array) -> Array:
        """The scores with what the masks do to them, (S, H, R, K), in the memory of `out`."""
        turned, masks = self._turned(tile), self.masks  # (S, G, D, K)
        samples, rows, keys = len(turned), tile.queries.stop - tile.queries.start, turned.shape[3]
        shape = (samples, self.q.shape[1], rows, keys)
        scores = out[: math.prod(shape)].reshape(shape)
        xp.matmul(queries, turned, out=scores.reshape(samples, self.groups, -1, keys))
        if masks.causal:
            ahead = tile.queries.start + self.keys - self.q.shape[2] - tile.keys.start
            _mask(scores, ahead)
        if masks.bias is not None and masks.bias.dtype == bool:
            xp.copyto(scores, -np.inf, where=~masks.bias[tile.place])
        elif masks.bias is not None:
            scores += masks.bias[tile.place]
        return scores

    def largest(self, tiles: list[Tile], queries: Array, spare: Array) -> Array:
        """The largest score of each row (S, H, R, 1)."""
        found = [self.make(tile, queries, spare).max(-1, keepdims=True) for tile in tiles]
        largest = functools.reduce(xp.maximum, found)
        # A row may have no key: all its exponentials become 0.
        lowest = in_dtype(float(np.finfo(largest.dtype).min), largest)
        return largest if self.masks.bias is None else xp.maximum(largest, lowest)

    def exponentials(self, tile: Tile, queries: Array, shift: Array | None, out: Array) -> Array:
        """exp(scores - shift), (S, H, R, K), in the memory of `out`."""
        scores = self.make(tile, queries, out)
        if shift is not None:
            scores -= shift
        xp.exp(scores, out=scores)
        return scores

    def weigh(
        self,
        tiles: list[Tile],
        queries: Array,
        shift: Array | None,
        values: GemmOperand,
        out: Array,
        spare: Array,
        kept: list[Array] | None,
    ) -> Array:
        """Write sum of exp(scores - shift) * value to `out` (S, H, R, E); returns the row sums
        (S, H, R, 1). The exponentials are put into `kept`, if it is a list.
        """
        total: Any = 0
        if kept is not None:
            kept.clear()
        for tile in tiles:
            space = spare if kept is None else xp.empty(len(spare), spare.dtype)
            exp = self.exponentials(tile, queries, shift, space)
            total = total + _row_sums(exp)
            weights = _fold(_dropped(exp, self.masks, tile), self.groups)
            _product(weights, values(tile), out, add=tile is not tiles[0])
            if kept is not None:
                kept.append(exp)
        return total

    def weigh_in_range(
        self,
        tiles: list[Tile],
        values: GemmOperand,
        out: Array,
        spare: Array,
        kept: list[Array] | None,
    ) -> tuple[Array, Array | None]:
        """The same with the largest scores as shift where they are needed; (row sums, shift)."""
        queries, shift, total = self.queries(tiles[0]), None, None
        if not chosen().on_device:  # where to look at the sums would mean to wait for them
            with np.errstate(over="ignore", invalid="ignore"):
                total = self.weigh(tiles, queries, None, values, out, spare, kept)
        if total is None or not _in_range(total):
            shift = self.largest(tiles, queries, spare)
            total = self.weigh(tiles, queries, shift, values, out, spare, kept)
        return total, shift

    def room(self, tiles: Iterable[Tile]) -> int:
        """Elements of the largest tile."""
        batch, heads = self.q.shape[:2]
        sizes = (
            (min(samples.stop, batch) - samples.start)
            * (queries.stop - queries.start)
            * (keys.stop - keys.start)
            for samples, queries, keys in tiles
        )
        return int(heads * max(sizes, default=0))


def attend(q: Array, k: Array, v: Array, out: Array, masks: Masks) -> list[Block]:
    """softmax(q k^T / sqrt(D)) v into `out`; returns what the backward pass needs.

    q: (B, H, T, D); k: (B, G, S, D); v: (B, G, S, E); out: (B, H, T, E). Each of the G heads of
    keys and values serves H / G heads of queries. Causal: query i sees the keys up to i + S - T.
    Queries that see no key get zeros.
    """
    scores, blocks = Scores(q, k, masks), []
    values = GemmOperand(v, q.shape[2], transposed=False)
    plan = plan_of(q, k, masks)
    spare = xp.empty(scores.room(itertools.chain.from_iterable(plan)), q.dtype)
    for tiles in plan:
        exp: list[Array] | None = [] if k.shape[2] <= KEPT else None
        rows = out[tiles[0].rows]
        total, shift = scores.weigh_in_range(tiles, values, rows, spare, exp)
        if shift is not None and masks.bias is not None:
            total = xp.maximum(total, 1)
        inverse = 1 / total
        rows *= inverse
        blocks.append(Block(tiles, inverse, shift, exp))
    return blocks


def _in_range(total: Array) -> bool:
    """Whether exponentials with these sums lost nothing: none too large, and not all too small."""
    limits = np.finfo(total.dtype)
    low, high = math.sqrt(limits.tiny), math.sqrt(limits.max)
    return bool(total.size == 0 or (total.min() > low and total.max() < high))


def _row_sums(x: Array) -> Array:
    # The product with ones is faster than sum(), which goes row by row.
    return xp.matmul(x, xp.ones((x.shape[-1], 1), x.dtype))


def _dropped(exp: Array, masks: Masks, tile: Tile) -> Array:
    return exp if masks.keep is None else exp * masks.keep[tile.place]


def _fold(x: Array, groups: int) -> Array:
    """(S, H, R, X) -> (S, G, H / G * R, X): the rows of all heads that share keys."""
    if x.shape[1] == groups:
        return x
    return x.reshape(x.shape[0], groups, -1, x.shape[3])


def _product(a: Array, b: Array, out: Array, add: bool) -> None:
    """Write a @ b to `out`, or add it; `out` may have the heads apart that `a` has folded."""
    if add:
        out += xp.matmul(a, b).reshape(out.shape)
    elif a.shape[1] == out.shape[1]:
        xp.matmul(a, b, out=out)
    else:
        out[...] = xp.matmul(a, b).reshape(out.shape)


def attend_backward(
    blocks: list[Block],
    arrays: tuple[Array, Array, Array, Array],
    grad: Array,
    masks: Masks,
    gradients: tuple[Array, Array, Array],
    to_bias: Array | None = None,
    *,
    more: bool = False,
) -> None:
    """Write the gradients of queries, keys and values to `gradients`, or with `more` add them.

    `arrays` are queries, keys, values and the result. The gradient of the bias is added to
    `to_bias`, in whose shape axes of length 1 are summed.
    """
    q, k, v, out = arrays
    to_q, to_k, to_v = gradients
    scores = Scores(q, k, masks)
    keys = GemmOperand(k, q.shape[2], transposed=False)
    turned_values = GemmOperand(v, q.shape[2], transposed=True)
    room = scores.room(tile for block in blocks for tile in block.tiles)
    spare = xp.empty((2, room), q.dtype)
    for tiles, inverse, shift, kept in reversed(blocks):
        rows = tiles[0].rows
        # The last queries see all keys: what comes first writes, the rest adds.
        add = more or tiles[0].queries.stop < q.shape[2]
        queries = scores.queries(tiles[0])
        g = grad[rows] * inverse  # (S, H, R, E)
        delta = _row_sums(g * out[rows])  # (S, H, R, 1)
        g = _fold(g, scores.groups)
        own = xp.empty(to_q[rows].shape, q.dtype) if more else to_q[rows]
        for number, tile in enumerate(tiles):
            if kept is None:
                exp = scores.exponentials(tile, queries, shift, spare[0])
            else:
                exp = kept[number]
            weights = _fold(_dropped(exp, masks, tile), scores.groups)
            _product(xp.swapaxes(weights, -1, -2), g, to_v[tile.columns], add)
            to_scores = spare[1, : exp.size].reshape(exp.shape)
            folded = to_scores.reshape(weights.shape)
            xp.matmul(g, turned_values(tile), out=folded)
            if masks.keep is not None:
                to_scores *= masks.keep[tile.place]
            to_scores -= delta
            to_scores *= exp
            if to_bias is not None:
                _add_reduced(to_bias, tile, to_scores)
            _product(folded, keys(tile), own, add=tile is not tiles[0])
            _product(xp.swapaxes(folded, -1, -2), queries, to_k[tile.columns], add)
        own *= scores.scale
        if more:
            to_q[rows] += own


def _add_reduced(total: Array, tile: Tile, part: Array) -> None:
    """Add a tile (S, H, R, K) to its place in an array some of whose axes have length 1."""
    single = tuple(axis for axis, length in enumerate(total.shape) if length == 1)
    place = tuple(slice(None) if n in single else s for n, s in enumerate(tile.place))
    total[place] += part.sum(axis=single, keepdims=True)


def rows_for(length: int) -> int:
    """Queries for each block. Smaller blocks compute less above the diagonal, larger ones keep
    BLAS more busy."""
    rows = block_size(ROWS)
    return min(length, rows, max(rows // 2, length // 4))


def plan_of(q: Array, k: Array, masks: Masks) -> list[list[Tile]]:
    """The tiles of each block, blocks of the same samples in the order of their queries."""
    (batch, heads, length, _), keys = q.shape, k.shape[2]
    plan = []
    rows, scores = rows_for(length), block_size(SCORES)
    fitting = scores // max(1, heads * rows * rows) * rows
    columns = min(keys, max(rows, min(2 * rows, fitting)))
    group = max(1, scores // max(1, heads * rows * columns))
    for sample in range(0, batch, group):
        samples = slice(sample, sample + group)
        for start in range(0, length, rows or 1):
            queries = slice(start, min(start + rows, length))
            seen = queries.stop + keys - length if masks.causal else keys
            tiles = [
                Tile(samples, queries, slice(first, min(first + columns, seen)))
                for first in range(0, seen, columns)
            ]
            plan.append(tiles)
    return plan


def _mask(scores: Array, first: int) -> None:
    """Hide what lies ahead: row r sees the columns up to first + r."""
    rows, columns = scores.shape[-2:]
    before = max(0, first)  # these columns are seen by every row
    if columns <= before + (first >= 0):
        return
    hidden = xp.arange(before, columns) > first + xp.arange(rows)[:, None]
    ahead = xp.where(hidden, in_dtype(-np.inf, scores), in_dtype(0, scores))
    scores[..., before:] += ahead
