"""Dropout whose masks depend on what is dropped, not on where or when it is computed."""

from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import only_floats
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray
from ringlet.nn.random import current, sample_generators

__all__ = ["dropout"]


class Dropout(Operation):
    """Zero elements with probability p and scale the others by 1 / (1 - p).

    Srivastava et al., "Dropout" (2014). Axis 0 counts samples, each with a mask of its own. If
    axis 1 is a part of the sequence, the mask is that part of the whole sequence's mask.
    """

    def __init__(self, p: float, path: str, part: tuple[int, int]) -> None:
        self.p, self.path, self.part = p, path, part

    def forward(self, x: Array) -> Array:
        self.mask = keep_mask(x.shape, x.dtype, self.p, self.path, self.part)
        return x * self.mask

    def backward(self, grad: Array) -> Gradients:
        return (grad * self.mask,)


def keep_mask(
    shape: tuple[int, ...], dtype: np.dtype[Any], p: float, path: str, part: tuple[int, int]
) -> Array:
    """The elements' factors: 0 with probability p, else 1 / (1 - p); see `dropout`.

    They are drawn on the host, so that they are the same on a device.
    """
    mask = np.empty(shape, bool)
    chosen, whole = _positions(shape, part)
    for row, generator in enumerate(sample_generators(len(mask), path)):
        mask[row] = (generator.random(whole, np.float32) >= p)[chosen]
    keep = asarray(mask).astype(dtype)
    keep *= dtype.type(1 / (1 - p))
    return keep


def _positions(shape: tuple[int, ...], part: tuple[int, int]) -> tuple[Any, tuple[int, ...]]:
    """The rows of a sample's mask that are needed, and the whole mask's shape."""
    scope, (index, count) = current(), part
    if scope.positions is None and count == 1:
        return ..., shape[1:]
    here = shape[1] * count
    chosen = np.arange(here) if scope.positions is None else scope.positions
    whole = here if scope.positions is None else scope.length
    return chosen[index * shape[1] : (index + 1) * shape[1]], (whole, *shape[2:])


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    path: str = "",
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """Zero elements with probability `p` while training; `nn.random.scope` determines the mask.

    `path` names the layer: two layers draw different masks. `part` is (index, count) if axis 1 is
    one of `count` equal parts of the sequence.
    """
    check_probability(p)
    if not (training and p):
        return input
    only_floats("dropout", input)
    if not input.ndim:
        return dropout(input.reshape(1), p, training, path, part).reshape(())
    return Dropout(p, path, part)(input)


def check_probability(p: float) -> None:
    """Raise ValueError unless 0 <= p < 1."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability is {p}; it must be at least 0 and below 1")
