"""Activation functions. GELU and its kind work in blocks that stay in the cache, and compute the
slope with the value: backward is one product, and nothing else is kept."""

import math
from typing import Literal

import numpy as np

from ringlet.nn.autograd.conversion import (
    in_dtype,
    named,
    of_one_dtype,
    only_floats,
    only_numbers,
    selected,
    unary,
)
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.arithmetic import where
from ringlet.nn.autograd.operations.elementwise import elementwise
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, aligned_empty, block_size, chosen, xp
from ringlet.nn.caches import elementwise_block

__all__ = [
    "gelu", "leaky_relu", "logsigmoid", "relu", "sigmoid", "silu", "softplus", "swiglu", "tanh",
]  # fmt: skip

BLOCK = elementwise_block()
"""Elements in each block: a handful of blocks fit the caches."""


class _Sloped(Operation):
    """An element-wise function that keeps only its slope, computed together with it."""

    slope: Array | None = None

    def forward(self, x: Array) -> Array:
        result = aligned_empty(x.shape, x.dtype)
        slope = aligned_empty(x.shape, x.dtype) if True in self.needs else None
        spare = aligned_empty((3, min(x.size, block_size(BLOCK))), x.dtype)
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
        inverse, other, _ = spare
        _one_and_exp(x, inverse)
        xp.divide(x, inverse, out=y)
        if slope is not None:
            xp.divide(1, inverse, out=slope)
            _silu_slope(y, slope, other)


class SwiGLU(Operation):
    """silu(gate) * up. Shazeer, "GLU variants improve transformer" (2020).

    Keeps for backward the factors of the result's gradient for each of the two.
    """

    def forward(self, gate: Array, up: Array) -> Array:
        result = aligned_empty(gate.shape, gate.dtype)
        self.of_gate, self.of_up = (aligned_empty(gate.shape, gate.dtype) for _ in range(2))
        for x, u, y, d_gate, silu in _blocks(gate, up, result, self.of_gate, self.of_up):
            _one_and_exp(x, y)
            xp.divide(1, y, out=d_gate)
            xp.multiply(x, d_gate, out=silu)
            _silu_slope(silu, d_gate, y)
            d_gate *= u
            xp.multiply(silu, u, out=y)
        return result

    def backward(self, grad: Array) -> Gradients:
        to_gate = xp.multiply(self.of_gate, grad, out=self.of_gate)
        to_up = xp.multiply(self.of_up, grad, out=self.of_up)
        return to_gate, to_up


def _one_and_exp(x: Array, out: Array) -> None:
    """1 + exp(-x), the inverse of the sigmoid; expm1 is faster than exp."""
    xp.negative(x, out=out)
    with np.errstate(over="ignore"):  # the sigmoid is 0
        xp.expm1(out, out=out)
    out += 2


def _silu_slope(y: Array, sigmoid: Array, spare: Array) -> None:
    """sigmoid + y (1 - sigmoid), with y = x sigmoid, in place of the sigmoid."""
    xp.subtract(1, sigmoid, out=spare)
    spare *= y
    sigmoid += spare


def _sigmoid(x: Array) -> Array:
    inverse = xp.empty(x.shape, x.dtype)
    _one_and_exp(x, inverse)
    return 1 / inverse


def _sigmoid_gradient(grad: Array, x: Array) -> Array:
    """1 / (2 cosh(x / 2))^2: exact where the sigmoid is almost 1, too."""
    with np.errstate(over="ignore"):
        inverse = xp.square(2 * xp.cosh(in_dtype(0.5, x) * x))
    return grad / inverse


def _tanh_gradient(grad: Array, x: Array) -> Array:
    """1 / cosh(x)^2: exact where the tangent is almost 1, too."""
    with np.errstate(over="ignore"):
        inverse = xp.square(xp.cosh(x))
    return grad / inverse


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


def _rough_erf(x: Array) -> Array:
    """The error function with an absolute error of 2e-7, in the dtype of x: what GELU needs.

    Abramowitz and Stegun, "Handbook of mathematical functions" (1964), 7.1.26.
    """
    if x.dtype == np.float64:
        return chosen().erf(x)
    a = xp.abs(x)
    t = 1 / (1 + a * in_dtype(0.3275911, x))
    series = t * in_dtype(1.061405429, x)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + in_dtype(coefficient, x)) * t
    return xp.copysign(1 - series * xp.exp(-a * a), x)


class ErfGELU(_Sloped):
    """x (1 + erf(x / sqrt(2))) / 2."""

    def block(self, x: Array, y: Array, slope: Array | None, spare: Array) -> None:
        cdf, density, _ = spare
        xp.multiply(x, 1 / math.sqrt(2), out=cdf)
        cdf[...] = _rough_erf(cdf)
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
                   "x", _tanh_gradient)
relu = elementwise("relu", "max(x, 0); slope 0 at 0.", lambda x: xp.maximum(x, 0),
                   "y", lambda grad, y: selected(grad, ~(y <= 0)), only_numbers)
sigmoid = elementwise("sigmoid", "1 / (1 + exp(-x)).", _sigmoid, "x", _sigmoid_gradient)
_softplus = elementwise("softplus", "log(1 + exp(x)).", lambda x: xp.logaddexp(x, in_dtype(0, x)),
                        "x", lambda grad, x: grad * _sigmoid(x))
# fmt: on
silu = unary(SiLU, only_floats)


class LeakyReLU(Operation):
    """x above 0, else x times a slope, which is that at 0 too."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Array) -> Array:
        self.slope = xp.where(x > 0, in_dtype(1, x), in_dtype(self.negative_slope, x))
        return x * self.slope

    def backward(self, grad: Array) -> Gradients:
        return (grad * self.slope,)


leaky_relu = named("leaky_relu", LeakyReLU.__doc__, unary(LeakyReLU, only_floats))


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""
    only_floats("softplus", input)
    scaled = input if beta == 1 else input * beta
    smooth = _softplus(scaled) if beta == 1 else _softplus(scaled) / beta
    return where(scaled > threshold, input, smooth)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)), without its underflow."""
    return -_softplus(-input)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape. Raises ValueError naming both shapes if they differ."""
    if gate.shape != up.shape:
        raise ValueError(f"gate has shape {gate.shape} and up {up.shape}; they must be the same")
    of_one_dtype("swiglu", *only_floats("swiglu", gate, up))
    return SwiGLU()(gate, up)


def gelu(input: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """The Gaussian error linear unit, exact or with GPT-2's tanh approximation."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}; it must be 'none' or 'tanh'")
    only_floats("gelu", input)
    return TanhGELU()(input) if approximate == "tanh" else ErfGELU()(input)
