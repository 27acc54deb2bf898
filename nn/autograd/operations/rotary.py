"""Rotary positions: pairs of a head's elements rotate by angles that grow with the position."""

import numpy as np

from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray, xp

__all__ = ["rotary_embedding", "rotary_frequencies"]


class Rotary(Operation):
    """Rotate each pair (a, b) of the last axis to (a cos - b sin, b cos + a sin).

    Su et al., "RoFormer: enhanced transformer with rotary position embedding" (2021), 3.4.2.
    """

    def __init__(self, cos: Array, sin: Array, interleaved: bool) -> None:
        self.cos, self.sin, self.interleaved = cos, sin, interleaved

    def forward(self, x: Array) -> Array:
        return self._rotate(x, self.sin)

    def backward(self, grad: Array) -> Gradients:
        return (self._rotate(grad, -self.sin),)

    def _rotate(self, x: Array, sin: Array) -> Array:
        result = xp.empty_like(x)
        (a, b), (y, z) = self._pairs(x), self._pairs(result)
        xp.multiply(a, self.cos, out=y)
        y -= b * sin
        xp.multiply(b, self.cos, out=z)
        z += a * sin
        width = 2 * self.cos.shape[-1]
        result[..., width:] = x[..., width:]
        return result

    def _pairs(self, x: Array) -> tuple[Array, Array]:
        """Views of the first and of the second elements of all pairs."""
        half = self.cos.shape[-1]
        if self.interleaved:
            return x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]
        return x[..., :half], x[..., half : 2 * half]


def rotary_embedding(x: Tensor, cos: Array, sin: Array, interleaved: bool = False) -> Tensor:
    """Rotate x (..., T, D) by angles with these cosines and sines: (..., T, R), R <= D / 2.

    Element i is paired with i + R, as in Llama; interleaved, 2i with 2i + 1, as in RoFormer and
    GPT-J. Elements after the first 2 R are unchanged. Raises ValueError naming the shapes if they
    do not match.
    """
    if cos.shape != sin.shape or 2 * cos.shape[-1] > x.shape[-1] or cos.ndim > x.ndim:
        raise ValueError(f"x {x.shape}, cosines {cos.shape} and sines {sin.shape} do not match")
    for own, length in zip(cos.shape[-2::-1], x.shape[-2::-1], strict=False):
        if own not in (1, length):
            raise ValueError(f"cosines of shape {cos.shape} do not match x of shape {x.shape}")
    return Rotary(asarray(cos, x.dtype), asarray(sin, x.dtype), interleaved)(x)


def rotary_frequencies(width: int, base: float = 10000.0) -> Array:
    """The angle of each pair from one position to the next, in radians: float64 (width / 2,), on
    the host."""
    if width % 2:
        raise ValueError(f"rotary positions need an even width, not {width}")
    return base ** (-np.arange(0, width, 2) / width)
