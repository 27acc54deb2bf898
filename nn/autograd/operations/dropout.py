"""Dropout whose masks depend on what is dropped, not on who computes it or when."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn.autograd.deferred import Gradient
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray
from ringlet.nn.random import current, sample_generators

__all__ = ["dropout"]


class Dropout(Operation):
    """Zero elements with probability p and scale the others by 1 / (1 - p).

    Srivastava et al., "Dropout" (2014). Axis 0 counts samples: each draws its own mask. Where
    axis 1 is a part of the sequence, the mask is that part of the whole sequence's.
    """

    def __init__(self, p: float, path: str, part: tuple[int, int]) -> None:
        self.p, self.path, self.part = p, path, part

    def forward(self, x: Array) -> Array:
        self.mask = keep_mask(x.shape, x.dtype, self.p, self.path, self.part)
        return x * self.mask

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * self.mask,)


def keep_mask(
    shape: tuple[int, ...], dtype: np.dtype[Any], p: float, path: str, part: tuple[int, int]
) -> Array:
    """What elements are multiplied by: 0 with probability p, else 1 / (1 - p); see `dropout`.

    It is drawn on the host, so that it is the same on a device.
    """
    mask = np.empty(shape, bool)
    chosen, whole = _positions(shape, part)
    for row, generator in zip(mask, sample_generators(len(mask), path), strict=True):
        row[...] = (generator.random(whole, np.float32) >= p)[chosen]
    keep = asarray(mask).astype(dtype)
    keep *= dtype.type(1 / (1 - p))
    return keep


def _positions(shape: tuple[int, ...], part: tuple[int, int]) -> tuple[Any, tuple[int, ...]]:
    """Which rows of a sample's mask are wanted, and the whole mask's shape."""
    scope, (index, count) = current(), part
    if scope.positions is None and count == 1:
        return ..., shape[1:]
    here = shape[1] * count
    chosen = np.arange(here) if scope.positions is None else scope.positions
    whole = here if scope.positions is None else scope.length
    return chosen[index * shape[1] : (index + 1) * shape[1]], (whole, *shape[2:])


def dropout(
    x: Tensor,
    p: float = 0.5,
    training: bool = True,
    path: str = "",
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """Zero elements with probability `p`, if training; the mask as `nn.random.scope` says.

    `path` names the layer: two layers draw different masks. `part` is (number, count) if axis 1
    is one of `count` equal parts of the sequence.
    """
    check_probability(p)
    return Dropout(p, path, part)(x) if training and p else x


def check_probability(p: float) -> None:
    """Raises ValueError if nothing would be left, or p is no probability."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability is {p}; it has to be from 0 to below 1")
