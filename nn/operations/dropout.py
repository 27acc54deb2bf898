"""Dropout whose masks depend on what is dropped, not on who computes it or when."""

from collections.abc import Sequence

import numpy as np

from ringlet.nn.random import sample_generators
from ringlet.nn.tensor import Array, Gradient, Operation, Tensor


class Dropout(Operation):
    """Zero elements with probability p and scale the others by 1 / (1 - p).

    Srivastava et al., "Dropout" (2014). Axis 0 counts samples: each draws its own mask.
    """

    def __init__(self, p: float, path: str) -> None:
        self.p, self.path = p, path

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        mask = np.empty(x.shape, x.dtype)
        for row, generator in zip(mask, sample_generators(len(x), self.path), strict=True):
            row[...] = generator.random(row.shape, np.float32) >= self.p
        mask *= 1 / (1 - self.p)
        self.mask = mask
        return x * mask

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * self.mask,)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, path: str = "") -> Tensor:
    """Zero elements with probability `p`, if training; the mask as `nn.random.scope` says.

    `path` names the layer: two layers draw different masks.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability is {p}; it has to be from 0 to below 1")
    return Dropout(p, path)(x) if training and p else x
