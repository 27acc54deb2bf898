"""Layers under PyTorch's names. Without a model around them they start from seed 0."""

import math
from typing import Literal

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.cache import KeyValueCache
from ringlet.nn.module import Module, Parameter
from ringlet.nn.tensor import Array, Tensor


def _unset(*shape: int) -> Parameter:
    return Parameter(np.empty(shape, np.float32))


class Linear(Module):
    """x @ weight.T + bias: (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = _unset(out_features, in_features)
        self.bias = _unset(out_features) if bias else None
        self.initialize(0)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.linear(x, self.weight, self.bias)

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Uniform in +- 1 / sqrt(in_features), as PyTorch does."""
        bound = 1 / math.sqrt(self.in_features)
        return bound * (2 * random.random(shape, np.float32) - 1)

    def describe(self) -> str:
        """See Module."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """weight[ids]: integers (...) -> (..., embedding_dim)."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = _unset(num_embeddings, embedding_dim)
        self.initialize(0)

    def forward(self, ids: Tensor | Array) -> Tensor:
        """See the class."""
        return F.embedding(ids, self.weight)

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Standard normal."""
        return random.standard_normal(shape, np.float32)

    def describe(self) -> str:
        """See Module."""
        return f"{self.num_embeddings}, {self.embedding_dim}"


class LayerNorm(Module):
    """Normalize over the last axis, then scale and shift: (..., width) -> the same."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        self.width, self.eps = width, eps
        self.weight, self.bias = _unset(width), _unset(width)
        self.initialize(0)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.layer_norm(x, self.weight, self.bias, self.eps)

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Ones and zeros: at first it only normalizes."""
        return np.full(shape, 1 if name == "weight" else 0, np.float32)

    def describe(self) -> str:
        """See Module."""
        return f"{self.width}, eps={self.eps}"


class GELU(Module):
    """The Gaussian error linear unit."""

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        self.approximate: Literal["none", "tanh"] = approximate

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.gelu(x, self.approximate)

    def describe(self) -> str:
        """See Module."""
        return f"approximate={self.approximate!r}"


class Dropout(Module):
    """Zero elements with probability p while training; the masks as `nn.random.scope` says.

    `part` is (number, count) where axis 1 is one of `count` equal parts of the sequence.
    """

    part: tuple[int, int] = (0, 1)

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.dropout(x, self.p, self.training, self.path, self.part)

    def describe(self) -> str:
        """See Module."""
        return f"p={self.p}"


class CrossEntropyLoss(Module):
    """-log softmax(logits)[target] in nats: (..., V), (...) -> ()."""

    def forward(
        self,
        logits: Tensor,
        targets: Tensor | Array,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> Tensor:
        """See functional.cross_entropy."""
        return F.cross_entropy(logits, targets, reduction)


class PackedAttention(Module):
    """Causal attention over queries, keys and values side by side: (B, T, 3C) -> (B, T, C)."""

    def __init__(self, heads: int) -> None:
        self.heads = heads

    def forward(self, qkv: Tensor) -> Tensor:
        """See the class."""
        return F.packed_self_attention(qkv, self.heads)

    def describe(self) -> str:
        """See Module."""
        return f"heads={self.heads}"


class CausalSelfAttention(Module):
    """Multi-head self-attention in which no position sees a later one: (B, T, C) -> (B, T, C).

    c_attn makes queries, keys and values of all heads, c_proj joins the heads (GPT-2's names).
    Dropout is on the result.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        if width % heads:
            raise ValueError(f"a width of {width} cannot be cut into {heads} heads")
        self.c_attn = Linear(width, 3 * width, bias)
        self.attend = PackedAttention(heads)
        self.c_proj = Linear(width, width, bias)
        self.resid_dropout = Dropout(dropout)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """With a cache the positions in it are seen too, and those of `x` are added to it."""
        qkv = self.c_attn(x)  # (B, T, 3C)
        if cache is None:
            y = self.attend(qkv)
        else:
            y = self._attend_cached(qkv, cache)
        dropped: Tensor = self.resid_dropout(self.c_proj(y))
        return dropped

    def _attend_cached(self, qkv: Tensor, cache: KeyValueCache) -> Tensor:
        batch, length, width = qkv.shape
        heads = qkv.data.reshape(batch, length, 3, self.attend.heads, -1)
        q, k, v = heads.transpose(2, 0, 3, 1, 4)  # each (B, H, T, D)
        keys, values = cache.append(k, v)
        y = F.scaled_dot_product_attention(Tensor(q), Tensor(keys), Tensor(values), is_causal=True)
        return y.permute(0, 2, 1, 3).reshape(batch, length, width // 3)
