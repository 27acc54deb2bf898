"""Attention layers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.autograd.conversion import array_of, mask_array
from ringlet.nn.autograd.operations.attention_scores import KeyMask
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray, xp
from ringlet.nn.layers.basic import Dropout, Linear, unset
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.module import Module

__all__ = ["CausalSelfAttention", "MultiheadAttention", "PackedAttention"]


class MultiheadAttention(Module):
    """Attention with several heads, of a sequence to itself or to another, as PyTorch's.

    Vaswani et al., "Attention is all you need" (2017), section 3.2.2. Queries (T, B, E), keys
    (S, B, kdim) and values (S, B, vdim) -> (T, B, E), or with the batch first; without a batch
    (T, E) and (S, E). `dropout` applies to the probabilities.
    """

    part: tuple[int, int] = (0, 1)
    """(index, count) where these heads are one of `count` equal parts; for the dropout."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError("add_bias_kv and add_zero_attn are not implemented")
        if embed_dim % num_heads:
            raise ValueError(f"a width of {embed_dim} is not divisible by {num_heads} heads")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.batch_first = batch_first
        widths = [embed_dim, kdim or embed_dim, vdim or embed_dim]
        self._packed = widths == [embed_dim] * 3
        if self._packed:
            self.in_proj_weight = unset(3 * embed_dim, embed_dim)
        else:
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = (
                unset(embed_dim, width) for width in widths
            )
        self.in_proj_bias = unset(3 * embed_dim) if bias else None
        self.out_proj = ZeroBiasLinear(embed_dim, embed_dim, bias)
        self.initialize()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | Array | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The result, and the probabilities (B, T, S) (per head (B, H, T, S)) or None.

        Masks are bool (true where the key is masked, unlike scaled_dot_product_attention) or
        numbers to add. key_padding_mask: (B, S); attn_mask: (T, S) or (B * H, T, S). `is_causal`
        masks later keys. Without `need_weights` it is faster and needs less memory.
        """
        if query.ndim == 2:  # as a batch of one
            axis = 0 if self.batch_first else 1
            inputs = [x.unsqueeze(axis) for x in (query, key, value)]
            padding = None if key_padding_mask is None else key_padding_mask[None]
            options = (padding, need_weights, attn_mask, average_attn_weights, is_causal)
            y, weights = self.forward(inputs[0], inputs[1], inputs[2], *options)
            return y.squeeze(axis), None if weights is None else weights.squeeze(0)
        if not self.batch_first:
            query, key, value = _swapped(query, key, value)
        self._check(query, key, value)
        q, k, v = (self._heads(x) for x in self._project(query, key, value))  # (B, H, T, D)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        dropped = self.dropout if self.training else 0.0
        if need_weights:
            y, weights = self._with_weights(q, k, v, mask, dropped, is_causal)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            dropout = (dropped, is_causal, None, False, self.path, self.part)
            y, weights = F.scaled_dot_product_attention(q, k, v, mask, *dropout), None
        y = self.out_proj(y.permute(0, 2, 1, 3).reshape(*query.shape[:2], -1))
        return y if self.batch_first else y.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        """With one product if queries, keys and values are the same."""
        width, bias = self.embed_dim, self.in_proj_bias
        if query is key is value and self._packed:
            return F.linear(query, self.in_proj_weight, bias).split(width, -1)
        weights = (
            self.in_proj_weight.split(width)
            if self._packed
            else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        )
        biases = (None,) * 3 if bias is None else bias.split(width)
        inputs = (query, key, value)
        return [F.linear(*each) for each in zip(inputs, weights, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, E) -> (B, H, T, D)"""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _mask(
        self, q: Tensor, k: Tensor, padding: Tensor | Array | None, mask: Tensor | Array | None
    ) -> Tensor | None:
        """Both masks as numbers to add, (B or 1, H or 1, T or 1, S)."""
        added = None
        if mask is not None:
            added = _added(mask, q.dtype)
            if added.ndim == 3 and len(added) != 1:
                added = added.reshape(-1, self.num_heads, *added.shape[1:])
        if padding is not None:
            hidden = _added(padding, q.dtype)
            if hidden.shape != (k.shape[0], k.shape[2]):
                raise ValueError(
                    f"a key_padding_mask of shape {hidden.shape} does not match {k.shape[0]} "
                    f"sequences of {k.shape[2]} keys"
                )
            hidden = hidden.reshape(k.shape[0], 1, 1, k.shape[2])
            added = hidden if added is None else added + hidden
        return added

    def _with_weights(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropped: float, causal: bool
    ) -> tuple[Tensor, Tensor]:
        scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(2, 3)  # (B, H, T, S)
        if mask is not None:
            scores = scores + mask
        if causal:
            hidden = np.triu(np.ones(scores.shape[2:], bool), 1 + k.shape[2] - q.shape[2])
            scores = scores.masked_fill(hidden, -np.inf)
        if mask is not None:  # a query that attends to no key gets zeros
            alone = scores.data.max(-1, keepdims=True) == -np.inf
            weights = scores.masked_fill(alone, 0).softmax(-1).masked_fill(alone, 0)
        else:
            weights = scores.softmax(-1)
        if dropped:
            weights = F.dropout(weights, dropped, True, self.path, self.part)
        return weights @ v, weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        shapes = query.shape, key.shape, value.shape
        same = len({shape[0] for shape in shapes}) == 1 and key.shape[1] == value.shape[1]
        if {len(shape) for shape in shapes} != {3} or not same:
            raise ValueError(
                f"query {shapes[0]}, key {shapes[1]} and value {shapes[2]} do not match"
            )

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Weights as in Glorot and Bengio (2010), uniform; biases are zeros. As in PyTorch."""
        if name == "in_proj_bias":
            return np.zeros(shape, np.float32)
        bound = math.sqrt(6 / sum(shape))
        return np.float32(bound) * (2 * random.random(shape, np.float32) - 1)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, dropout={self.dropout}"


class ZeroBiasLinear(Linear):
    """A Linear whose bias starts from zeros."""

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        return np.zeros(shape, np.float32) if name == "bias" else super().draw(name, shape, random)


def _swapped(*tensors: Tensor) -> Sequence[Tensor]:
    """With the first two axes swapped; equal tensors stay the same object."""
    done = {id(x): x.transpose(0, 1) for x in {id(x): x for x in tensors}.values()}
    return [done[id(x)] for x in tensors]


def _added(mask: Tensor | Array, dtype: np.dtype[Any]) -> Tensor:
    """A mask as numbers to add to the scores."""
    if array_of(mask).dtype.kind in "biu":
        return Tensor(xp.where(mask_array(mask), dtype.type(-np.inf), dtype.type(0)))
    return mask if isinstance(mask, Tensor) else Tensor(asarray(mask, dtype))


class PackedAttention(Module):
    """Causal attention over queries, keys and values side by side: (B, T, 3C) -> (B, T, C)."""

    def __init__(self, heads: int) -> None:
        self.heads = heads

    def forward(self, qkv: Tensor, mask: KeyMask = None) -> Tensor:
        """The mask is that of functional.packed_self_attention."""
        return F.packed_self_attention(qkv, self.heads, attn_mask=mask)

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class CausalSelfAttention(Module):
    """Multi-head self-attention, each position to itself and earlier ones: (B, T, C) -> (B, T, C).

    c_attn computes the queries, keys and values of all heads, c_proj joins the heads (GPT-2's
    names). Dropout applies to the result.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        if width % heads:
            raise ValueError(f"a width of {width} is not divisible by {heads} heads")
        self.c_attn = Linear(width, 3 * width, bias)
        self.attend = PackedAttention(heads)
        self.c_proj = Linear(width, width, bias)
        self.resid_dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, cache: KeyValueCache | None = None, mask: KeyMask = None
    ) -> Tensor:
        """With a cache, x attends to its positions too, and is added to it. The bool mask
        (B, 1, 1, S) is true for the keys to attend to, those of the cache first."""
        qkv = self.c_attn(x)  # (B, T, 3C)
        y = self.attend(qkv, mask) if cache is None else self._attend_cached(qkv, cache, mask)
        return self.resid_dropout(self.c_proj(y))

    def _attend_cached(self, qkv: Tensor, cache: KeyValueCache, mask: KeyMask) -> Tensor:
        batch, length, width = qkv.shape
        heads = qkv.data.reshape(batch, length, 3, self.attend.heads, -1)
        q, k, v = heads.transpose(2, 0, 3, 1, 4)  # each (B, H, T, D)
        keys, values = cache.append(k, v)
        arrays = Tensor(q), Tensor(keys), Tensor(values)
        y = F.scaled_dot_product_attention(*arrays, mask, is_causal=True)
        return y.permute(0, 2, 1, 3).reshape(batch, length, width // 3)
