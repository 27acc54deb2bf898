"""Attention without projections, which each model has under names of its own."""

from typing import Any, NamedTuple

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.autograd.conversion import array_of, host_array
from ringlet.nn.autograd.operations.attention_scores import FirstKeys, KeyMask
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.module import Module


class Rotation(NamedTuple):
    """Cosines and sines (T, D / 2), or (B, 1, T, D / 2) by sample, of the positions' angles.

    With `every` they are those of all positions so far, and the keys in a cache are not rotated
    yet: their angles change as the text grows.
    """

    cos: Array
    sin: Array
    every: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """Rotate x (B, H, T, D), whose positions are the last ones."""
        cos, sin = (table[..., -x.shape[2] :, :] for table in self[:2])
        return F.rotary_embedding(x, cos, sin)


class HeadsAttention(Module):
    """Attention without parameters: queries (B, T, H * D), keys and values (B, S, G * D).

    Each of the G key-value heads serves H / G query heads. `scale` is the factor of the scores, by
    default 1 / sqrt(D). Dropout applies to the probabilities; `part` is (index, count) where the
    heads are one of `count` equal parts. With a `window` a causal query attends to the nearest so
    many keys only, its own among them (Beltagy et al., "Longformer", 2020, section 3.1).
    """

    part: tuple[int, int] = (0, 1)

    def __init__(
        self,
        heads: int,
        groups: int | None = None,
        causal: bool = False,
        scale: float | None = None,
        dropout: float = 0.0,
        window: int = 0,
    ) -> None:
        self.heads, self.groups, self.causal = heads, groups or heads, causal
        self.scale, self.dropout, self.window = scale, dropout, window
        if self.heads % self.groups:
            raise ValueError(f"{self.heads} query heads cannot share {self.groups} key heads")

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | Array | FirstKeys | None = None,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The heads' results side by side: (B, T, H * D).

        The mask is that of functional.scaled_dot_product_attention. With a cache, queries attend to
        its positions too, and `k` and `v` are added to it.
        """
        queries, keys = self._split_heads(q, self.heads), self._split_heads(k, self.groups)
        values = self._split_heads(v, self.groups)
        if rotation is not None:
            queries = rotation.apply(queries)
            keys = keys if rotation.every else rotation.apply(keys)
        if cache is not None:
            past = cache.append(keys.data, values.data)
            keys, values = Tensor(past[0]), Tensor(past[1])
        if rotation is not None and rotation.every:
            keys = rotation.apply(keys)
        return self.attend(queries, keys, values, mask, self.causal)

    def cached(self, q: Tensor, mask: Tensor | Array | None, cache: KeyValueCache) -> Tensor:
        """Attention to the cache alone."""
        keys, values = cache.filled
        queries = self._split_heads(q, self.heads)
        return self.attend(queries, Tensor(keys), Tensor(values), mask, causal=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Any, causal: bool) -> Tensor:
        """(B, H, T, D), (B, G, S, D), (B, G, S, D) -> (B, T, H * D)."""
        dropped = self.dropout if self.training else 0.0
        options = (dropped, causal, self.scale, True, self.path, self.part, self.window)
        return self._merge_heads(F.scaled_dot_product_attention(q, k, v, mask, *options))

    @staticmethod
    def _split_heads(x: Tensor, heads: int) -> Tensor:
        """(B, T, H * D) -> (B, H, T, D)."""
        batch, length, width = x.shape
        return x.reshape(batch, length, heads, width // heads).permute(0, 2, 1, 3)

    @staticmethod
    def _merge_heads(y: Tensor) -> Tensor:
        """(B, H, T, D) -> (B, T, H * D)."""
        batch, heads, length, width = y.shape
        return y.permute(0, 2, 1, 3).reshape(batch, length, heads * width)

    def extra_repr(self) -> str:
        shared = "" if self.groups == self.heads else f", groups={self.groups}"
        window = f", window={self.window}" if self.window else ""
        return f"heads={self.heads}{shared}, causal={self.causal}{window}"


def key_mask(attention_mask: Any) -> Array | None:
    """The keys to attend to, (B, 1, 1, S), from a mask (B, S) that is 0 for padding."""
    if attention_mask is None:
        return None
    seen = (array_of(attention_mask) != 0)[:, None, None, :]
    return asarray(seen)


def padded(
    positions: Array, attention_mask: Any = None, documents: Any = None
) -> tuple[Array, KeyMask]:
    """For a causal model: each row's own positions, and the keys to attend to.

    `positions` (T,) are the columns' in a batch whose `attention_mask` (B, S) is 0 for padding, and
    which ends with the last of them. A row's positions count its own tokens: (B, T), and the mask
    is (B, 1, 1, S); without padding they are `positions` and None.

    Or rows hold several texts: `documents` (B, S) has a number for each position, the same within a
    text and another in the next one. Each text has positions of its own, from 0 on, and attends to
    itself alone. Raises ValueError for a mask or numbers of another shape, and for both.
    """
    if documents is not None:
        return _packed(positions, attention_mask, host_array(documents))
    if attention_mask is None:
        return positions, None
    seen, end = host_array(attention_mask) != 0, int(positions.max(initial=-1)) + 1
    if seen.ndim != 2 or seen.shape[1] != end:
        raise ValueError(
            f"an attention_mask of shape {seen.shape} for rows of {end} positions; it must have a "
            "number for each, those in the caches too"
        )
    if seen.all():
        return positions, None
    own = np.maximum(np.cumsum(seen, axis=1) - 1, 0)
    return own[:, positions], key_mask(seen)


def _packed(positions: Array, attention_mask: Any, documents: Array) -> tuple[Array, FirstKeys]:
    """Each text's own positions (B, T), and the first keys of the whole rows, of which `positions`
    may be a part (with context parallelism)."""
    end = int(positions.max(initial=-1)) + 1
    if attention_mask is not None:
        raise ValueError("rows are packed with documents, or padded with an attention_mask")
    if documents.ndim != 2 or documents.shape[1] < end:
        raise ValueError(f"documents of shape {documents.shape} for rows of {end} positions")
    places = np.arange(documents.shape[1])
    begins = np.diff(documents, axis=1, prepend=documents[:, :1]) != 0
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return positions - first[:, positions], FirstKeys(first)
