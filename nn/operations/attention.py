"""Attention, fused: scores are made, used and dropped in blocks that fit the cache.

Blocks above the diagonal of a causal mask are never computed. The softmax is kept unnormalized
with its row sums, and the sums are applied to the narrow side (head width, not context).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ringlet.nn.backend import asarray, block_size, xp
from ringlet.nn.operations.dropout import check_probability, keep_mask
from ringlet.nn.tensor import Array, Gradient, Operation, Tensor, array_of, in_dtype

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

    @property
    def place(self) -> tuple[slice, ...]:
        """Where it is in an array (B, H, T, S)."""
        return self.samples, slice(None), self.queries, self.keys


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


def attend(q: Array, k: Array, v: Array, out: Array, masks: Masks) -> list[_Block]:
    """softmax(q k^T / sqrt(D)) v into `out`; returns what the backward pass needs.

    q: (B, H, T, D); k: (B, G, S, D); v: (B, G, S, E); out: (B, H, T, E). Each of the G heads of
    keys and values serves H / G heads of queries. Causal: query i sees the keys up to i + S - T.
    Queries that see no key get zeros.
    """
    blocks = []
    scale, groups = masks.factor(q), k.shape[1]
    for samples, queries, keys in _plan(q.shape, k.shape[2], masks.causal):
        rows = q[samples, :, queries] * scale  # (S, H, R, D)
        exp = xp.matmul(_fold(rows, groups), xp.swapaxes(k[samples, :, keys], -1, -2))
        exp = exp.reshape(*rows.shape[:-1], exp.shape[-1])  # (S, H, R, K)
        if masks.causal:
            _mask(exp, queries.start + k.shape[2] - q.shape[2])
        total = _exponentials(exp, masks, (samples, slice(None), queries, keys))
        block = _Block(samples, queries, keys, exp, 1 / total)
        target, weights = out[samples, :, queries], _dropped(exp, masks, block)
        if groups == q.shape[1]:
            xp.matmul(weights, v[samples, :, keys], out=target)
        else:
            target[...] = xp.matmul(_fold(weights, groups), v[samples, :, keys]).reshape(
                target.shape
            )
        target *= block.inverse
        blocks.append(block)
    return blocks


def _exponentials(scores: Array, masks: Masks, place: tuple[slice, ...]) -> Array:
    """exp(scores - maximum) in their place; returns the row sums (S, H, R, 1)."""
    bias = masks.bias
    if bias is not None and bias.dtype == bool:
        xp.copyto(scores, -np.inf, where=~bias[place])
    elif bias is not None:
        scores += bias[place]
    largest = scores.max(axis=-1, keepdims=True)
    if bias is not None:  # a row may have no key: all its exponentials become 0
        xp.maximum(largest, np.finfo(scores.dtype).min, out=largest)
    scores -= largest
    xp.exp(scores, out=scores)
    total: Array = xp.matmul(scores, xp.ones((scores.shape[-1], 1), scores.dtype))
    return total if bias is None else xp.maximum(total, 1)


def _dropped(exp: Array, masks: Masks, block: _Block) -> Array:
    return exp if masks.keep is None else exp * masks.keep[block.place]


def _fold(x: Array, groups: int) -> Array:
    """(S, H, R, X) -> (S, G, H / G * R, X): the rows of all heads that share keys."""
    if x.shape[1] == groups:
        return x
    return x.reshape(x.shape[0], groups, -1, x.shape[3])


def attend_backward(
    blocks: list[_Block],
    arrays: tuple[Array, Array, Array, Array],
    grad: Array,
    masks: Masks,
    to_bias: Array | None = None,
) -> Iterator[tuple[_Block, Array, Array, Array]]:
    """For each block the gradients of its queries, and its parts of those of keys and values.

    `arrays` are queries, keys, values and the result. The gradient of the bias is added to
    `to_bias`, in whose shape axes of length 1 are summed.
    """
    q, k, v, out = arrays
    scale, groups = masks.factor(q), k.shape[1]
    for block in blocks:
        samples, queries, keys, exp, inverse = block
        g = grad[samples, :, queries] * inverse  # (S, H, R, E)
        folded = _fold(g, groups)
        weights = _fold(_dropped(exp, masks, block), groups)
        to_v = xp.matmul(xp.swapaxes(weights, -1, -2), folded)  # (S, G, K, E)
        delta = xp.matmul(
            g * out[samples, :, queries], xp.ones((out.shape[-1], 1), q.dtype)
        )  # (S, H, R, 1)
        scores = xp.matmul(folded, xp.swapaxes(v[samples, :, keys], -1, -2)).reshape(exp.shape)
        if masks.keep is not None:
            scores *= masks.keep[block.place]
        scores -= delta
        scores *= exp
        if to_bias is not None:
            _add_reduced(to_bias, block, scores)
        scores *= scale
        scores = _fold(scores, groups)
        to_q = xp.matmul(scores, k[samples, :, keys]).reshape(*g.shape[:-1], -1)
        to_k = xp.matmul(xp.swapaxes(scores, -1, -2), _fold(q[samples, :, queries], groups))
        yield block, to_q, to_k, to_v


def _add_reduced(total: Array, block: _Block, part: Array) -> None:
    """Add a block (S, H, R, K) to its place in an array some of whose axes have length 1."""
    single = tuple(axis for axis, length in enumerate(total.shape) if length == 1)
    place = tuple(slice(None) if n in single else s for n, s in enumerate(block.place))
    total[place] += part.sum(axis=single, keepdims=True)


def _plan(shape: tuple[int, ...], keys: int, causal: bool) -> Iterator[tuple[slice, slice, slice]]:
    batch, heads, length, _ = shape
    size, rows = block_size(SCORES), ROWS
    if size > SCORES:  # on a device: as many queries as fit a block
        rows = max(ROWS, size // max(1, heads * keys))
    group = max(1, size // max(1, heads * min(rows, length) * keys))
    for sample in range(0, batch, group):
        for start in range(0, length, rows):
            stop = min(start + rows, length)
            seen = stop + keys - length if causal else keys
            yield slice(sample, sample + group), slice(start, stop), slice(0, seen)


def _mask(scores: Array, first: int) -> None:
    """Hide what lies ahead: row r sees the columns up to first + r."""
    rows, columns = scores.shape[-2:]
    if columns - 1 > first:
        hidden = xp.arange(first, columns) > first + xp.arange(rows)[:, None]
        square = scores[..., first:]  # the columns before `first` are seen by every row
        xp.copyto(square, -np.inf, where=hidden)


class ScaledDotProductAttention(Operation):
    """softmax(q k^T / sqrt(D) + bias) v. Vaswani et al., "Attention is all you need" (2017),
    3.2.1; with fewer heads of keys than of queries Ainslie et al., "GQA" (2023).

    A fourth input is a bias with a gradient, (B or 1, H or 1, T or 1, S or 1).
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def forward(self, *arrays: Array) -> Array:
        q, k, v, *self.bias = arrays
        if self.bias:
            shape = (*q.shape[:3], k.shape[2])
            self.masks = self.masks._replace(bias=xp.broadcast_to(self.bias[0], shape))
        out = xp.empty((*q.shape[:3], v.shape[3]), q.dtype)
        self.blocks = attend(q, k, v, out, self.masks)
        self.arrays = q, k, v, out
        return out

    def backward(self, grad: Array) -> Sequence[Gradient]:
        q, k, v, _ = self.arrays
        to_q, to_k, to_v = xp.empty_like(q), xp.zeros_like(k), xp.zeros_like(v)
        to_bias = [xp.zeros_like(bias) if self.needs[3] else None for bias in self.bias]
        parts = attend_backward(self.blocks, self.arrays, grad, self.masks, *to_bias)
        for block, q_part, k_part, v_part in parts:
            to_q[block.samples, :, block.queries] = q_part
            to_k[block.samples, :, block.keys] += k_part
            to_v[block.samples, :, block.keys] += v_part
        return to_q, to_k, to_v, *to_bias


class PackedSelfAttention(Operation):
    """Self-attention over queries, keys and values that lie side by side: (B, T, 3C) -> (B, T, C).

    Saves the copies that splitting, transposing and joining heads would take.
    """

    def __init__(self, heads: int, causal: bool) -> None:
        self.heads, self.masks = heads, CAUSAL if causal else PLAIN

    def _heads(self, packed: Array, parts: int) -> list[Array]:
        """(B, T, parts * C) -> parts views of (B, H, T, D)."""
        batch, length, _ = packed.shape
        view = packed.reshape(batch, length, parts, self.heads, -1)
        return [view[:, :, part].transpose(0, 2, 1, 3) for part in range(parts)]

    def forward(self, *arrays: Array) -> Array:
        (self.packed,) = arrays
        batch, length, width = self.packed.shape
        self.result = xp.empty((batch, length, width // 3), self.packed.dtype)
        q, k, v = self._heads(self.packed, 3)
        (out,) = self._heads(self.result, 1)
        self.blocks = attend(q, k, v, out, self.masks)
        return self.result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        result = xp.empty(self.packed.shape, self.packed.dtype)
        q, k, v = self._heads(self.packed, 3)
        to_q, to_k, to_v = self._heads(result, 3)
        (out,), (g,) = self._heads(self.result, 1), self._heads(grad, 1)
        parts = attend_backward(self.blocks, (q, k, v, out), g, self.masks)
        for block, q_part, k_part, v_part in parts:
            samples, queries, keys = block.samples, block.queries, block.keys
            # A sample's first block writes, and clears what only later blocks see.
            if queries.start == 0:
                to_k[samples, :, keys.stop :] = 0
                to_v[samples, :, keys.stop :] = 0
                to_k[samples, :, keys], to_v[samples, :, keys] = k_part, v_part
            else:
                to_k[samples, :, keys] += k_part
                to_v[samples, :, keys] += v_part
            to_q[samples, :, queries] = q_part
        return (result,)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    path: str = "",
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v: (B, H, T, D), (B, G, S, D), (B, G, S, E) -> (B, H, T, E).

    G is H, or with `enable_gqa` divides it: each head of keys serves H / G heads of queries. Also
    without the axis of heads. `attn_mask` is broadcast to (B, H, T, S): bool (true: the key is
    seen) or a number that is added, which gets a gradient if it wants one. Queries that see no
    key get zeros. Causal: the last query sees all keys, each earlier one a key less (PyTorch
    counts from the first query; the two agree for T = S); it may go with a mask. Dropout is on
    the probabilities, by `path` and `part` (of the heads) as in `dropout`.

    Raises ValueError with the shapes if they do not fit.
    """
    if query.ndim == 3:
        mask = attn_mask if attn_mask is None or attn_mask.ndim < 3 else _with_heads(attn_mask)
        q, k, v = (x.unsqueeze(1) for x in (query, key, value))
        options = (mask, dropout_p, is_causal, scale, enable_gqa, path, part)
        return scaled_dot_product_attention(q, k, v, *options).squeeze(1)
    _check(query, key, value, enable_gqa)
    _check_scores(query, key, attn_mask, is_causal)
    check_probability(dropout_p)
    shape = (*query.shape[:3], key.shape[2])
    keep = keep_mask(shape, query.dtype, dropout_p, path, part) if dropout_p else None
    masks = Masks(is_causal, None, keep, scale)
    if isinstance(attn_mask, Tensor) and attn_mask.requires_grad:
        bias = attn_mask.reshape(*(1,) * (4 - attn_mask.ndim), *attn_mask.shape)
        return ScaledDotProductAttention(masks)(query, key, value, bias)
    if attn_mask is not None:
        masks = masks._replace(bias=xp.broadcast_to(asarray(array_of(attn_mask)), shape))
    return ScaledDotProductAttention(masks)(query, key, value)


def _with_heads(mask: Tensor | Array) -> Tensor | Array:
    return mask.unsqueeze(-3) if isinstance(mask, Tensor) else mask[..., None, :, :]


def _check(q: Tensor, k: Tensor, v: Tensor, grouped: bool) -> None:
    fit = q.ndim == k.ndim == 4 and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    if not fit or k.shape[:3] != v.shape[:3] or q.shape[1] % k.shape[1]:
        raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} do not fit")
    if q.shape[1] != k.shape[1] and not grouped:
        raise ValueError(f"{q.shape[1]} heads for {k.shape[1]} of keys take enable_gqa=True")


def _check_scores(q: Tensor, k: Tensor, mask: Tensor | Array | None, causal: bool) -> None:
    if causal and q.shape[2] > k.shape[2]:
        raise ValueError(f"{q.shape[2]} causal queries for {k.shape[2]} keys")
    if mask is None:
        return
    scores = (*q.shape[:3], k.shape[2])
    pairs = zip(mask.shape[::-1], scores[::-1], strict=False)
    if mask.ndim > 4 or any(own not in (1, length) for own, length in pairs):
        raise ValueError(f"a mask of shape {mask.shape} cannot be broadcast to scores of {scores}")


def packed_self_attention(qkv: Tensor, heads: int, is_causal: bool = True) -> Tensor:
    """Self-attention of queries, keys and values side by side: (B, T, 3C) -> (B, T, C)."""
    if qkv.shape[-1] % (3 * heads):
        raise ValueError(f"a last axis of {qkv.shape[-1]} is not 3 x {heads} heads of one width")
    return PackedSelfAttention(heads, is_causal)(qkv)
