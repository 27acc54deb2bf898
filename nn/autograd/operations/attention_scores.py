"""The scores of attention, tile by tile: products of queries and keys, masked and exponentiated.

Finding each row's largest score and subtracting it takes as long as the exponentials. It is needed
only where these overflow, or all underflow; the row sums show whether they did.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ringlet.nn.autograd.conversion import in_dtype
from ringlet.nn.backend import Array, asarray, chosen, xp


class Tile(NamedTuple):
    """Some samples' scores of some queries of all heads, for some of the keys they attend to."""

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


class Masks(NamedTuple):
    """How the scores are changed; callers of `attend` broadcast arrays to (B, H, T, S)."""

    causal: bool = False
    bias: Array | None = None
    """Added to the scores; or bool, where false makes a score minus infinity."""

    keep: Array | None = None
    """Dropout's mask: factors of the probabilities."""

    scale: float | None = None
    """The factor of the scores; None for 1 / sqrt(D)."""

    window: int = 0
    """Of a causal mask: how many keys each query attends to, the nearest ones; 0 for all."""

    first: Array | None = None
    """(B, T), on the host: the first key that each query attends to."""

    def factor(self, q: Array) -> Any:
        """The scale in the dtype of `q`."""
        return in_dtype(self.scale or 1 / math.sqrt(q.shape[-1]), q)


class FirstKeys(NamedTuple):
    """A mask for causal attention of a sequence to itself: each query attends to no key before its
    first one, (B, T) on the host, which is no later than itself."""

    first: Array


KeyMask: TypeAlias = Array | FirstKeys | None
"""Which keys a model's positions attend to: bool (B, 1, 1, S), or those of packed texts."""


PLAIN, CAUSAL = Masks(), Masks(causal=True)


class GemmOperand:
    """Keys or values as the second operand of matrix products: a copy in the layout in which it
    is multiplied, of the current samples. Products with strided or transposed operands take a
    third longer. A copy does not pay for few queries, nor on a device."""

    FROM = 16
    """The number of queries from which a copy pays."""

    STEP = 64
    """Keys transposed at once, so that what is read stays in the first-level cache."""

    def __init__(self, x: Array, queries: int, transposed: bool) -> None:
        self._x, self._transposed = x, transposed
        self._copied = queries >= self.FROM and not chosen().on_device
        self._samples: slice | None = None

    def __call__(self, tile: Tile) -> Array:
        """The tile's samples and keys: (S, G, K, D), or transposed (S, G, D, K)."""
        if tile.samples != self._samples:
            self._samples, self._laid = tile.samples, self._lay(self._x[tile.samples])
        return self._laid[..., tile.keys] if self._transposed else self._laid[:, :, tile.keys]

    def _lay(self, x: Array) -> Array:
        if not self._transposed:
            return xp.ascontiguousarray(x) if self._copied else x
        turned = xp.swapaxes(x, -1, -2)
        if not self._copied:
            return turned
        # Rows whose length is a multiple of 1 KiB would map to the same sets of that cache.
        length = x.shape[2]
        room = length + (16 if length * x.itemsize % 1024 == 0 else 0)
        laid = xp.empty((*turned.shape[:3], room), x.dtype)[..., :length]
        for start in range(0, length, self.STEP):
            some = slice(start, start + self.STEP)
            laid[..., some] = turned[..., some]
        return laid


class Scores:
    """Computes the exponentials of scores, tile by tile."""

    def __init__(self, q: Array, k: Array, masks: Masks) -> None:
        self.q, self.masks = q, masks
        self.scale, (_, self.groups, self.keys, _) = masks.factor(q), k.shape
        self._turned = GemmOperand(k, q.shape[2], transposed=True)
        self._later: dict[tuple[int, int, int], Array | None] = {}

    def queries(self, tile: Tile) -> Array:
        """The tile's queries, scaled: (S, G, H / G * R, D)."""
        return fold(self.q[tile.rows] * self.scale, self.groups)

    def make(self, tile: Tile, queries: Array, out: Array) -> Array:
        """The masked scores (S, H, R, K), in the memory of `out`."""
        turned, masks = self._turned(tile), self.masks  # (S, G, D, K)
        samples, rows, keys = len(turned), tile.queries.stop - tile.queries.start, turned.shape[3]
        shape = (samples, self.q.shape[1], rows, keys)
        scores = out[: math.prod(shape)].reshape(shape)
        xp.matmul(queries, turned, out=scores.reshape(samples, self.groups, -1, keys))
        if masks.causal:
            ahead = tile.queries.start + self.keys - self.q.shape[2] - tile.keys.start
            self._mask(scores, ahead)
            if masks.window:
                _mask_before(scores, ahead - masks.window)
        if masks.first is not None:
            _mask_earlier(scores, masks.first[tile.samples, tile.queries], tile.keys)
        if masks.bias is not None and masks.bias.dtype == bool:
            xp.copyto(scores, -np.inf, where=~masks.bias[tile.place])
        elif masks.bias is not None:
            scores += masks.bias[tile.place]
        return scores

    def _mask(self, scores: Array, first: int) -> None:
        """Mask later keys: row r attends to the columns up to first + r."""
        rows, columns = scores.shape[-2:]
        case = rows, columns, first
        if case not in self._later:  # the same for all samples
            hidden = xp.arange(columns) > first + xp.arange(rows)[:, None]
            infinities = _infinities(hidden, scores).reshape(-1)
            self._later[case] = infinities if columns > first + 1 else None
        added = self._later[case]
        if added is not None:
            flat = scores.reshape(-1, rows * columns)  # few long rows
            flat += added

    def largest(self, tiles: list[Tile], queries: Array, spare: Array) -> Array:
        """The largest score of each row (S, H, R, 1)."""
        found = [self.make(tile, queries, spare).max(-1, keepdims=True) for tile in tiles]
        largest = functools.reduce(xp.maximum, found)
        # A row may attend to no key: all its exponentials become 0.
        lowest = in_dtype(float(np.finfo(largest.dtype).min), largest)
        empty = self.masks.bias is not None or self.masks.first is not None
        return xp.maximum(largest, lowest) if empty else largest

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
        """Write the sum of exp(scores - shift) * value to `out` (S, H, R, E); returns the row sums
        (S, H, R, 1). If `kept` is a list, the exponentials are stored in it.
        """
        total: Any = 0
        if kept is not None:
            kept.clear()
        for tile in tiles:
            space = spare if kept is None else xp.empty(self.room([tile]), spare.dtype)
            exp = self.exponentials(tile, queries, shift, space)
            total = total + row_sums(exp)
            weights = fold(dropped(exp, self.masks, tile), self.groups)
            product(weights, values(tile), out, add=tile is not tiles[0])
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
        """The same, with the largest scores as shift only if necessary: (row sums, shift)."""
        queries, shift, total = self.queries(tiles[0]), None, None
        if not chosen().on_device:  # where reading the sums would block the host
            with np.errstate(over="ignore", invalid="ignore"):
                total = self.weigh(tiles, queries, None, values, out, spare, kept)
        if total is None or not _in_range(total):
            shift = self.largest(tiles, queries, spare)
            total = self.weigh(tiles, queries, shift, values, out, spare, kept)
        return total, shift

    def room(self, tiles: Iterable[Tile]) -> int:
        """The number of elements of the largest tile."""
        batch, heads = self.q.shape[:2]
        sizes = (
            (min(samples.stop, batch) - samples.start)
            * (queries.stop - queries.start)
            * (keys.stop - keys.start)
            for samples, queries, keys in tiles
        )
        return int(heads * max(sizes, default=0))


def _in_range(total: Array) -> bool:
    """Whether exponentials with these sums neither overflowed nor all underflowed."""
    limits = np.finfo(total.dtype)
    low, high = math.sqrt(limits.tiny), math.sqrt(limits.max)
    return bool(total.size == 0 or (total.min() > low and total.max() < high))


def row_sums(x: Array) -> Array:
    """The sums over the last axis, (..., K) -> (..., 1)."""
    # A product with ones is faster than sum(), which works row by row.
    return xp.matmul(x, xp.ones((x.shape[-1], 1), x.dtype))


def dropped(exp: Array, masks: Masks, tile: Tile) -> Array:
    """A tile's exponentials after dropout."""
    return exp if masks.keep is None else exp * masks.keep[tile.place]


def fold(x: Array, groups: int) -> Array:
    """(S, H, R, X) -> (S, G, H / G * R, X): the rows of all heads that share keys, together."""
    if x.shape[1] == groups:
        return x
    return x.reshape(x.shape[0], groups, -1, x.shape[3])


def product(a: Array, b: Array, out: Array, add: bool) -> None:
    """Write a @ b to `out`, or add it; heads that `a` has folded may be separate in `out`."""
    if add:
        out += xp.matmul(a, b).reshape(out.shape)
    elif a.shape[1] == out.shape[1]:
        xp.matmul(a, b, out=out)
    else:
        out[...] = xp.matmul(a, b).reshape(out.shape)


def _mask_before(scores: Array, last: int) -> None:
    """Mask keys before the window: of row r the columns up to last + r."""
    rows, columns = scores.shape[-2:]
    end = min(columns, last + rows)  # all rows attend to the columns from here on
    if end > 0:
        _hide(scores[..., :end], xp.arange(end) <= last + xp.arange(rows)[:, None])


def _mask_earlier(scores: Array, first: Array, keys: slice) -> None:
    """Mask the keys before each query's first (S, R)."""
    if first.max(initial=0) > keys.start:
        stop = keys.start + scores.shape[-1]
        _hide(scores, xp.arange(keys.start, stop) < asarray(first)[:, None, :, None])


def _hide(scores: Array, hidden: Array) -> None:
    scores += _infinities(hidden, scores)


def _infinities(hidden: Array, scores: Array) -> Array:
    """What is added to scores to hide some."""
    return xp.where(hidden, in_dtype(-np.inf, scores), in_dtype(0, scores))
