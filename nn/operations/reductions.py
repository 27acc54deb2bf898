"""Sums, means, variances and extrema over some or all axes."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ringlet.nn.tensor import Array, Gradient, Operation, Tensor

Axes: TypeAlias = int | tuple[int, ...] | None


class _Reduction(Operation):
    """Over the axes `dim` (None: all)."""

    def __init__(self, dim: Axes, keepdim: bool) -> None:
        self.dim, self.keepdim = dim, keepdim

    def spread(self, reduced: Array, shape: tuple[int, ...]) -> Array:
        """A reduced array broadcast back to the shape of what was reduced (a view)."""
        if not self.keepdim and self.dim is not None:
            reduced = np.expand_dims(reduced, self.dim)
        return np.broadcast_to(reduced, shape)


class Sum(_Reduction):
    """The sum."""

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        self.shape = x.shape
        return np.asarray(x.sum(axis=self.dim, keepdims=self.keepdim, dtype=_dtype(x)))

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (self.spread(grad, self.shape),)


class Mean(_Reduction):
    """The mean."""

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        self.shape = x.shape
        return np.asarray(x.mean(axis=self.dim, keepdims=self.keepdim))

    def backward(self, grad: Array) -> Sequence[Gradient]:
        count = math.prod(self.shape) // (grad.size or 1)
        return (self.spread(grad / np.asarray(count, grad.dtype), self.shape),)


class Var(_Reduction):
    """The variance; divides by the number of elements less the correction."""

    def __init__(self, dim: Axes, keepdim: bool, correction: int) -> None:
        super().__init__(dim, keepdim)
        self.correction = correction

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        self.centred = x - x.mean(axis=self.dim, keepdims=True)
        total = np.square(self.centred).sum(axis=self.dim, keepdims=self.keepdim)
        self.divisor = np.asarray(x.size // (total.size or 1) - self.correction, x.dtype)
        return np.asarray(total / self.divisor)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        slope = self.centred * (2 / self.divisor)
        return (self.spread(grad, self.centred.shape) * slope,)


class Extreme(_Reduction):
    """The maximum or minimum; equal ones share the gradient."""

    def __init__(self, dim: Axes, keepdim: bool, largest: bool) -> None:
        super().__init__(dim, keepdim)
        self.largest = largest

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        find = np.max if self.largest else np.min
        result = np.asarray(find(x, axis=self.dim, keepdims=self.keepdim))
        hits = x == self.spread(result, x.shape)
        self.share = hits / hits.sum(axis=self.dim, keepdims=True, dtype=x.dtype)
        return result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (self.spread(grad, self.share.shape) * self.share,)


def _dtype(x: Array) -> np.dtype[np.generic] | None:
    return x.dtype if x.dtype.kind in "fc" else None


def sum(x: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The sum over all elements, or over the axes `dim`."""
    return Sum(dim, keepdim)(x)


def mean(x: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The mean over all elements, or over the axes `dim`."""
    return Mean(dim, keepdim)(x)


def var(x: Tensor, dim: Axes = None, keepdim: bool = False, correction: int = 1) -> Tensor:
    """The variance over all elements, or over the axes `dim`."""
    return Var(dim, keepdim, correction)(x)


def max(x: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The maximum over all elements, or over the axes `dim`."""
    return Extreme(dim, keepdim, largest=True)(x)


def min(x: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The minimum over all elements, or over the axes `dim`."""
    return Extreme(dim, keepdim, largest=False)(x)
