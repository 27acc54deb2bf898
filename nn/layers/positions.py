"""Position encodings: learned, sinusoidal, rotary and relative."""

import math

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.basic import Embedding
from ringlet.nn.module import Module

__all__ = ["LearnedPositions", "RelativePositionBias", "RotaryEmbedding", "SinusoidalPositions"]


class LearnedPositions(Embedding):
    """A vector for each position, added to the tokens' vectors: (B, T, C) -> (B, T, C)."""

    def forward(self, x: Tensor, first: int = 0) -> Tensor:  # type: ignore[override]
        """`first` is the position of x's first token. Raises ValueError beyond the table."""
        end = first + x.shape[-2]
        if end > self.num_embeddings:
            raise ValueError(f"{end} positions exceed a table of {self.num_embeddings}")
        return x + self.weight[first:end]


class SinusoidalPositions(Module):
    """Sines and cosines of the position, added to the tokens' vectors: (B, T, C) -> (B, T, C).

    Vaswani et al., "Attention is all you need" (2017), section 3.5. Nothing is learned.
    """

    def __init__(self, width: int, base: float = 10000.0) -> None:
        if width % 2:
            raise ValueError(f"sines and cosines come in pairs; the width {width} is odd")
        self.width, self.base = width, base

    def table(self, positions: Array) -> Array:
        """(T,) -> (T, C): sines at even and cosines at odd indices."""
        angles = positions[:, None] * F.rotary_frequencies(self.width, self.base)
        return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(positions), -1)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """`first` is the position of x's first token."""
        table = self.table(np.arange(first, first + x.shape[-2]))
        return x + Tensor(table.astype(x.dtype))

    def extra_repr(self) -> str:
        return f"{self.width}"


class RotaryEmbedding(Module):
    """Rotates queries and keys, so that scores depend on distances: (..., T, D) -> the same.

    Su et al., "RoFormer" (2021). Element i is paired with i + width / 2, as in Llama; interleaved,
    2i with 2i + 1. In wider heads only the first `width` elements are rotated. `frequencies`
    (width / 2,), in radians per position, replace those of `base`. Cosines and sines are multiplied
    by `scale`.
    """

    def __init__(
        self,
        width: int,
        base: float = 10000.0,
        interleaved: bool = False,
        frequencies: Array | None = None,
        scale: float = 1.0,
    ) -> None:
        self.width, self.base, self.interleaved, self.scale = width, base, interleaved, scale
        given = F.rotary_frequencies(width, base) if frequencies is None else frequencies
        if np.shape(given) != (width // 2,):
            raise ValueError(f"{np.shape(given)} frequencies do not match a width of {width}")
        self._frequencies = np.asarray(given, np.float64)
        self._tables: tuple[Array, Array] | None = None

    def forward(self, x: Tensor, positions: Array | int = 0) -> Tensor:
        """`positions` are (T,), or (B, 1, T) per sample, or the first of T consecutive ones."""
        cos, sin = self.tables(positions, x.shape[-2], x.dtype)
        return F.rotary_embedding(x, cos, sin, self.interleaved)

    def tables(
        self, positions: Array | int, length: int, dtype: np.dtype[np.generic]
    ) -> tuple[Array, Array]:
        """Cosines and sines (..., T, width / 2); the tables are kept."""
        end = (
            positions + length if isinstance(positions, int) else int(positions.max(initial=0)) + 1
        )
        if self._tables is None or len(self._tables[0]) < end or self._tables[0].dtype != dtype:
            angles = np.arange(2 ** math.ceil(math.log2(max(end, 1))))[:, None] * self._frequencies
            both = self.scale * np.cos(angles), self.scale * np.sin(angles)
            self._tables = both[0].astype(dtype), both[1].astype(dtype)
        where = slice(positions, end) if isinstance(positions, int) else positions
        cos, sin = self._tables
        return cos[where], sin[where]

    def extra_repr(self) -> str:
        return f"{self.width}, base={self.base:g}"


class RelativePositionBias(Module):
    """A learned number for each head and distance, added to the scores: (1, H, T, S).

    Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text
    transformer" (2020), section 2.1: near distances have a bucket each, far ones share buckets of
    logarithmic size, up to `max_distance`. `bidirectional` reserves half of the buckets for later
    keys; otherwise those count as distance 0.
    """

    def __init__(
        self,
        heads: int,
        buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ) -> None:
        self.buckets, self.max_distance = buckets, max_distance
        self.bidirectional = bidirectional
        self.relative_attention_bias = Embedding(buckets, heads)

    def forward(self, queries: int, keys: int, first: int = 0) -> Tensor:
        """For queries from position `first` on, and keys from position 0 on."""
        distances = np.arange(keys) - np.arange(first, first + queries)[:, None]  # (T, S)
        bias = self.relative_attention_bias(self.bucket(distances))  # (T, S, H)
        return bias.permute(2, 0, 1).unsqueeze(0)

    def bucket(self, distances: Array) -> Array:
        """The bucket of each distance from query to key (positive for later keys)."""
        count, offset = self.buckets, np.zeros_like(distances)
        if self.bidirectional:
            count //= 2
            offset = np.where(distances > 0, count, 0)
            back = np.abs(distances)
        else:
            back = np.maximum(-distances, 0)
        exact = count // 2
        # float32, as in T5's own code: rounding decides at the bounds of buckets
        ratio = np.log(np.maximum(back, 1).astype(np.float32) / exact)
        far = ratio / math.log(self.max_distance / exact) * (count - exact)
        large = np.minimum(exact + far.astype(np.int64), count - 1)
        return offset + np.where(back < exact, back, large)

    def extra_repr(self) -> str:
        return f"buckets={self.buckets}, max_distance={self.max_distance}"
