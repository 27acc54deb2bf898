"""Gradients that are computed when they are needed, straight into the memory that they are for."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ringlet.nn.backend import Array, block_size, xp

SUMMANDS = 1 << 22
"""Elements of a product that are computed at once before they are added. Fewer would leave BLAS
idle, more would take memory."""


class Deferred:
    """A gradient that is not computed yet."""

    def into(self, out: Array, add: bool) -> None:
        """Write the gradient to `out`, or add it."""
        raise NotImplementedError

    def value(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The gradient as a new array."""
        out = xp.empty(shape, dtype)
        self.into(out, add=False)
        return out


Gradient: TypeAlias = Array | Deferred | None
Gradients: TypeAlias = Sequence[Gradient]
"""What an operation's `backward` returns: one for each input."""


class Product(Deferred):
    """A gradient that is a matrix product, `left @ right`."""

    def __init__(self, left: Array, right: Array) -> None:
        self._left, self._right = left, right

    def into(self, out: Array, add: bool) -> None:
        if add:
            add_product(out, self._left, self._right)
        else:
            xp.matmul(self._left, self._right, out=out)


def add_product(out: Array, left: Array, right: Array) -> None:
    """Add the product of two matrices to `out`, in blocks of rows if it is large."""
    step = max(1, block_size(SUMMANDS) // max(1, out.shape[1]))
    for start in range(0, len(out), step):
        rows = slice(start, start + step)
        part = out[rows]
        xp.add(part, xp.matmul(left[rows], right), out=part)
