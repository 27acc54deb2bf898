"""Normalization over the last axes."""

from collections.abc import Sequence

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.basic import unset
from ringlet.nn.module import Module

__all__ = ["LayerNorm", "RMSNorm"]


class LayerNorm(Module):
    """Normalize over the last axes (usually just the width), then scale and shift."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.normalized_shape, self.eps = _shape(normalized_shape), eps
        self.weight = unset(*self.normalized_shape) if elementwise_affine else None
        self.bias = unset(*self.normalized_shape) if elementwise_affine and bias else None
        self.initialize(0)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Weights are ones and biases zeros."""
        return np.full(shape, 1 if name == "weight" else 0, np.float32)

    def describe(self) -> str:
        return f"{', '.join(map(str, self.normalized_shape))}, eps={self.eps}"


class RMSNorm(Module):
    """Divide by the root of the mean square over the last axes, then scale.

    `eps` is by default that of the dtype, as in PyTorch; Llama has 1e-5 or 1e-6.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        self.normalized_shape, self.eps = _shape(normalized_shape), eps
        self.weight = unset(*self.normalized_shape) if elementwise_affine else None
        self.initialize(0)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Ones."""
        return np.ones(shape, np.float32)

    def describe(self) -> str:
        return f"{', '.join(map(str, self.normalized_shape))}, eps={self.eps}"


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
