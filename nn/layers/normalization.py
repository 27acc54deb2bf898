"""Normalization over the last axes."""

from collections.abc import Sequence

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.basic import unset
from ringlet.nn.module import Module

__all__ = ["LayerNorm", "RMSNorm"]


class _Normalization(Module):
    """Over the last axes; weights start with ones, biases with zeros."""

    def __init__(self, shape: int | Sequence[int], eps: float | None, affine: bool) -> None:
        self.normalized_shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.eps = eps
        self.weight = unset(*self.normalized_shape) if affine else None

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        return np.full(shape, 1 if name == "weight" else 0, np.float32)

    def extra_repr(self) -> str:
        return f"{', '.join(map(str, self.normalized_shape))}, eps={self.eps}"


class LayerNorm(_Normalization):
    """Normalize over the last axes (usually just the width), then scale and shift."""

    eps: float

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine)
        self.bias = unset(*self.normalized_shape) if elementwise_affine and bias else None
        self.initialize()

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(_Normalization):
    """Divide by the root of the mean square over the last axes, then scale.

    `eps` is by default that of the dtype, as in PyTorch; Llama has 1e-5 or 1e-6.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine)
        self.initialize()

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)
