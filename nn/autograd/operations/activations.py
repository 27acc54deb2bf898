"""Activation functions. GELU and its kind work in blocks that stay in the cache, and compute the
slope with the value: backward is one product, and nothing else is kept."""

import math
from typing import Literal

from ringlet.nn.autograd.conversion import in_dtype, unary
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.elementwise import elementwise, error_function
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, block_size, xp

__all__ = ["gelu", "relu", "sigmoid", "silu", "swiglu", "tanh"]

BLOCK = 32 * 1024
"""Elements in each block: a handful of blocks fit the second-level cache."""


class _Sloped(Operation):
    """An element-wise function that keeps only its slope, computed together with it."""

    slope: Array | None = None

    def forward(self, x: Array) -> Array:
        result = xp.empty(x.shape, x.dtype)
        slope = xp.empty(x.shape, x.dtype) if True in self.needs else None
        spare = xp.empty((3, min(x.size, block_size(BLOCK))), x.dtype)
        for block, y, *d in _blocks(x, result, *() if slope is None else (slope,)):
            self.block(block, y, d[0] if d else None, spare[:, : block.size])
        self.slope = slope
        return result

    def block(self, x: Array, y: Array, slope: Array | None, spare: Array) -> None:
        """Write the function of a block to `y`, and its slope unless that is None."""
        raise NotImplementedError

    def backward(self, grad: Array) -> Gradients:
        assert self.slope is not None
        result = xp.multiply(self.slope, grad, out=self.slope)
        return (result,)


class SiLU(_Sloped):
    """x sigmoid(x). Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units" (2018)."""

    def block(self, x: Array, y: Array, slope: Array | None, spare: Array) -> None:
        sigmoid = spare[0]
        _sigmoid(x, sigmoid)
        xp.multiply(x, sigmoid, out=y)
        if slope is not None:
            _silu_slope(y, sigmoid, slope)


class SwiGLU(Operation):
    """silu(gate) * up. Shazeer, "GLU variants improve transformer" (2020).

    Keeps for backward the factors of the result's gradient for each of the two.
    """

    def forward(self, gate: Array, up: Array) -> Array:
        result = xp.empty(gate.shape, gate.dtype)
        self.of_gate, self.of_up = (xp.empty(gate.shape, gate.dtype) for _ in range(2))
        for x, u, y, d_gate, silu in _blocks(gate, up, result, self.of_gate, self.of_up):
            _sigmoid(x, y)
            xp.multiply(x, y, out=silu)
            _silu_slope(silu, y, d_gate)
            d_gate *= u
            xp.multiply(silu, u, out=y)
        return result

    def backward(self, grad: Array) -> Gradients:
        to_gate = xp.multiply(self.of_gate, grad, out=self.of_gate)
        to_up = xp.multiply(self.of_up, grad, out=self.of_up)
        return to_gate, to_up


def _sigmoid(x: Array, out: Array) -> None:
    xp.multiply(x, 0.5, out=out)
    xp.tanh(out, out=out)
    out *= 0.5
    out += 0.5


def _silu_slope(y: Array, sigmoid: Array, out: Array) -> None:
    """sigmoid (1 + x (1 - sigmoid)) = sigmoid (1 - y) + y, with y = x sigmoid"""
    xp.subtract(1, y, out=out)
    out *= sigmoid
    out += y


class TanhGELU(_Sloped):
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016), section 2.
    """

    INNER = math.sqrt(2 / math.pi)
    CUBIC = 0.044715

    def block(self, x: Array, y: Array, slope: Array | None, spare: Array) -> None:
        tanh, square, rest = spare
        xp.multiply(x, x, out=square)
        square *= self.INNER * self.CUBIC
        xp.add(square, self.INNER, out=tanh)
        tanh *= x
        xp.tanh(tanh, out=tanh)
        if slope is None:
            tanh *= 0.5
            tanh += 0.5
            xp.multiply(tanh, x, out=y)
            return
        # With h = (1 + tanh) / 2 the result is y = h x, and its slope, as tanh' = 1 - tanh^2,
        # h + 2 y (1 - h) (INNER + 3 INNER CUBIC x^2).
        square *= 6
        square += 2 * self.INNER
        tanh *= 0.5
        xp.subtract(0.5, tanh, out=rest)  # 1 - h
        tanh += 0.5
        xp.multiply(tanh, x, out=y)
        rest *= square
        rest *= y
        xp.add(rest, tanh, out=slope)


class ErfGELU(_Sloped):
    """x (1 + erf(x / sqrt(2))) / 2."""

    def block(self, x: Array, y: Array, slope: Array | None, spare: Array) -> None:
        cdf, density, _ = spare
        xp.multiply(x, 1 / math.sqrt(2), out=cdf)
        cdf[...] = error_function(cdf)
        cdf += 1
        cdf *= 0.5
        xp.multiply(cdf, x, out=y)
        if slope is not None:  # cdf + x density
            xp.multiply(x, x, out=density)
            density *= -0.5
            xp.exp(density, out=density)
            density *= 1 / math.sqrt(2 * math.pi)
            density *= x
            xp.add(cdf, density, out=slope)


def _blocks(*arrays: Array) -> list[tuple[Array, ...]]:
    """The arrays, all of one size, cut into flat blocks that together fit the cache."""
    flat, size = [array.reshape(-1) for array in arrays], block_size(BLOCK)
    return [
        tuple(each[start : start + size] for each in flat) for start in range(0, flat[0].size, size)
    ]


# fmt: off
tanh = elementwise("tanh", "The hyperbolic tangent.", lambda x: xp.tanh(x),
                   "y", lambda grad, y: grad * (1 - y * y))
relu = elementwise("relu", "max(x, 0); slope 0 at 0.", lambda x: xp.maximum(x, 0),
                   "y", lambda grad, y: xp.where(y <= 0, in_dtype(0, grad), grad))
sigmoid = elementwise("sigmoid", "1 / (1 + exp(-x)), as (1 + tanh(x / 2)) / 2: no overflow.",
                      lambda x: in_dtype(0.5, x) + in_dtype(0.5, x) * xp.tanh(in_dtype(0.5, x) * x),
                      "y", lambda grad, y: grad * y * (1 - y))
# fmt: on
silu = unary(SiLU)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape. Raises ValueError naming both shapes if they differ."""
    if gate.shape != up.shape:
        raise ValueError(f"gate has shape {gate.shape} and up {up.shape}; they must be the same")
    return SwiGLU()(gate, up)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """The Gaussian error linear unit, exact or with GPT-2's tanh approximation."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}; it must be 'none' or 'tanh'")
    return TanhGELU()(x) if approximate == "tanh" else ErfGELU()(x)
