"""Activation functions. GELU works in blocks that stay in the cache: it is most of the cost of
a transformer's layer that is not a matrix product."""

import math
from collections.abc import Sequence
from typing import Literal

from ringlet.nn.backend import block_size, xp
from ringlet.nn.operations.elementwise import error_function
from ringlet.nn.tensor import Array, Gradient, Operation, Tensor, in_dtype

BLOCK = 16 * 1024
"""Elements for each block: a handful of them fit the second-level cache."""


class Tanh(Operation):
    """The hyperbolic tangent."""

    def forward(self, *arrays: Array) -> Array:
        self.y = xp.tanh(arrays[0])
        return self.y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * (1 - self.y * self.y),)


class Sigmoid(Operation):
    """1 / (1 + exp(-x)), as (1 + tanh(x / 2)) / 2, which cannot overflow."""

    def forward(self, *arrays: Array) -> Array:
        half = in_dtype(0.5, arrays[0])
        y: Array = half + half * xp.tanh(half * arrays[0])
        self.y = y
        return y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * self.y * (1 - self.y),)


class ReLU(Operation):
    """max(x, 0); slope 0 at 0."""

    def forward(self, *arrays: Array) -> Array:
        self.y = xp.maximum(arrays[0], 0)
        return self.y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * (self.y > 0),)


class SiLU(Operation):
    """x sigmoid(x). Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units" (2018)."""

    def forward(self, *arrays: Array) -> Array:
        (self.x,) = arrays
        self.gate = xp.empty(self.x.shape, self.x.dtype)
        result = xp.empty(self.x.shape, self.x.dtype)
        for x, s, y in _blocks(self.x, self.gate, result):
            _sigmoid(x, s)
            xp.multiply(x, s, out=y)
        return result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        result = xp.empty(self.x.shape, self.x.dtype)
        for x, s, g, d in _blocks(self.x, self.gate, grad, result):
            _silu_slope(x, s, d)
            d *= g
        return (result,)


class SwiGLU(Operation):
    """silu(gate) * up. Shazeer, "GLU variants improve transformer" (2020)."""

    def forward(self, *arrays: Array) -> Array:
        self.gate, self.up = arrays
        self.sigmoid = xp.empty(self.gate.shape, self.gate.dtype)
        result = xp.empty(self.gate.shape, self.gate.dtype)
        for x, up, s, y in _blocks(self.gate, self.up, self.sigmoid, result):
            _sigmoid(x, s)
            xp.multiply(x, s, out=y)
            y *= up
        return result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        to_gate, to_up = xp.empty(grad.shape, grad.dtype), xp.empty(grad.shape, grad.dtype)
        blocks = _blocks(self.gate, self.up, self.sigmoid, grad, to_gate, to_up)
        for x, up, s, g, d_gate, d_up in blocks:
            xp.multiply(x, s, out=d_up)
            d_up *= g
            _silu_slope(x, s, d_gate)
            d_gate *= up
            d_gate *= g
        return to_gate, to_up


def _sigmoid(x: Array, out: Array) -> None:
    xp.multiply(x, 0.5, out=out)
    xp.tanh(out, out=out)
    out *= 0.5
    out += 0.5


def _silu_slope(x: Array, s: Array, out: Array) -> None:
    """s (1 + x (1 - s))"""
    xp.subtract(1, s, out=out)
    out *= x
    out += 1
    out *= s


class TanhGELU(Operation):
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016), section 2.
    """

    INNER = math.sqrt(2 / math.pi)
    CUBIC = 0.044715

    def forward(self, *arrays: Array) -> Array:
        (self.x,) = arrays
        self.tanh = xp.empty(self.x.shape, self.x.dtype)
        result = xp.empty(self.x.shape, self.x.dtype)
        for x, t, y in _blocks(self.x, self.tanh, result):
            xp.multiply(x, x, out=t)
            t *= self.INNER * self.CUBIC
            t += self.INNER
            t *= x
            xp.tanh(t, out=t)
            xp.multiply(x, 0.5, out=y)
            y += y * t
        return result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        result = xp.empty(self.x.shape, self.x.dtype)
        for x, t, g, d in _blocks(self.x, self.tanh, grad, result):
            # slope: (1 + t) / 2 + x / 2 (1 - t^2) (INNER + 3 INNER CUBIC x^2)
            xp.multiply(x, x, out=d)
            d *= 3 * self.INNER * self.CUBIC
            d += self.INNER
            d *= x
            d *= 1 - t * t
            d += t
            d += 1
            d *= 0.5
            d *= g
        return (result,)


class ErfGELU(Operation):
    """x (1 + erf(x / sqrt(2))) / 2."""

    def forward(self, *arrays: Array) -> Array:
        (self.x,) = arrays
        self.cdf = (error_function(self.x / in_dtype(math.sqrt(2), self.x)) + 1) * in_dtype(
            0.5, self.x
        )
        result: Array = self.x * self.cdf
        return result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        x = self.x
        density = xp.exp(x * x * in_dtype(-0.5, x)) * in_dtype(1 / math.sqrt(2 * math.pi), x)
        return (grad * (self.cdf + x * density),)


def _blocks(*arrays: Array) -> list[tuple[Array, ...]]:
    """The arrays, all of one size, cut into flat blocks that fit the cache together."""
    flat, size = [array.reshape(-1) for array in arrays], block_size(BLOCK)
    return [
        tuple(each[start : start + size] for each in flat) for start in range(0, flat[0].size, size)
    ]


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return Tanh()(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return Sigmoid()(x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return ReLU()(x)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), also called swish."""
    return SiLU()(x)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape. Raises ValueError with both shapes if they differ."""
    if gate.shape != up.shape:
        raise ValueError(f"gate of shape {gate.shape} and up of shape {up.shape} do not fit")
    return SwiGLU()(gate, up)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """The Gaussian error linear unit, exact or with the tanh approximation of GPT-2."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}; there are 'none' and 'tanh'")
    return TanhGELU()(x) if approximate == "tanh" else ErfGELU()(x)
