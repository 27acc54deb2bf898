"""Linear layers, embeddings and dropout."""

import math
from typing import Any

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.autograd.operations.embedding import padding_row
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, xp
from ringlet.nn.module import Module, Parameter

__all__ = ["Dropout", "Embedding", "Identity", "Linear"]


def unset(*shape: int) -> Parameter:
    """A parameter whose values are drawn later."""
    return Parameter(xp.empty(shape, np.float32))


class Linear(Module):
    """x @ weight.T + bias: (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = unset(out_features, in_features)
        self.bias = unset(out_features) if bias else None
        self.initialize()

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Uniform in +- 1 / sqrt(in_features), as in PyTorch."""
        bound = 1 / math.sqrt(self.in_features)
        return bound * (2 * random.random(shape, np.float32) - 1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """weight[ids]: integers (...) -> (..., embedding_dim).

    The row `padding_idx` starts from zeros and does not learn.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None
    ) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_row(padding_idx, num_embeddings)
        self.weight = unset(num_embeddings, embedding_dim)
        self.initialize()

    def forward(self, input: Tensor | Array) -> Tensor:
        return F.embedding(input, self.weight, self.padding_idx)

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Standard normal; zeros for the padding."""
        values = random.standard_normal(shape, np.float32)
        if self.padding_idx is not None:
            values[self.padding_idx] = 0
        return values

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class Dropout(Module):
    """Zero elements with probability p while training; `nn.random.scope` determines the masks.

    `part` is (index, count) where axis 1 is one of `count` equal parts of the sequence.
    """

    part: tuple[int, int] = (0, 1)

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.path, self.part)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Identity(Module):
    """The input itself, whatever the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return x
