"""Functions of each element, with their gradients: one table for most of them."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from ringlet.nn.autograd.conversion import (
    Preparation,
    as_floats,
    in_dtype,
    only_floats,
    only_numbers,
    unary,
)
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.arithmetic import div, mul, pow
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, chosen, xp

__all__ = [
    "abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "log", "log1p", "log2", "log10",
    "reciprocal", "round", "rsqrt", "sign", "sin", "sqrt", "square",
]  # fmt: skip


class Exp(Operation):
    """e ** x."""  # what follows has the same form: a function, and the gradient of it

    def forward(self, x: Array) -> Array:
        self.y = xp.exp(x)
        return self.y

    def backward(self, grad: Array) -> Gradients:
        return (grad * self.y,)


exp = unary(Exp, as_floats)


class _Elementwise(Operation):
    """A row of the table: `function(x)`, and `gradient(grad, kept)` where its input or its result
    is kept."""

    function: Callable[[Array], Array]
    gradient: Callable[[Array, Array], Array]
    keeps: Literal["x", "y"]

    def forward(self, x: Array) -> Array:
        y = self.function(x)
        self.kept = x if self.keeps == "x" else y
        return y

    def backward(self, grad: Array) -> Gradients:
        return (self.gradient(grad, self.kept),)


def elementwise(
    name: str,
    meaning: str,
    function: Callable[[Array], Array],
    keeps: Literal["x", "y"],
    gradient: Callable[[Array, Array], Array],
    integers: Preparation = as_floats,
) -> Callable[[Tensor], Tensor]:
    """The function of tensors for a row of the table; for `integers` see `unary`."""
    own = {"function": staticmethod(function), "gradient": staticmethod(gradient), "keeps": keeps}
    return unary(type(name.capitalize(), (_Elementwise,), {**own, "__doc__": meaning}), integers)


def _erf_gradient(grad: Array, x: Array) -> Array:
    slope = 2 / math.sqrt(math.pi) * xp.exp(-xp.square(x.astype(np.float64)))
    return grad * slope.astype(grad.dtype)


def _zeros(grad: Array, y: Array) -> Array:
    return xp.zeros_like(grad)


# fmt: off
abs = elementwise("abs", "The absolute value; slope 0 at 0.", lambda x: xp.abs(x),
                  "x", lambda grad, x: grad * xp.sign(x), only_numbers)
expm1 = elementwise("expm1", "exp(x) - 1, exact near 0.", lambda x: xp.expm1(x),
                    "x", lambda grad, x: grad * xp.exp(x))
log = elementwise("log", "The natural logarithm.", lambda x: xp.log(x),
                  "x", lambda grad, x: grad / x)
log1p = elementwise("log1p", "log(1 + x), exact near 0.", lambda x: xp.log1p(x),
                    "x", lambda grad, x: grad / (x + 1))
log2 = elementwise("log2", "The logarithm to base 2.", lambda x: xp.log2(x),
                   "x", lambda grad, x: grad / (x * in_dtype(math.log(2), x)))
log10 = elementwise("log10", "The logarithm to base 10.", lambda x: xp.log10(x),
                    "x", lambda grad, x: grad / (x * in_dtype(math.log(10), x)))
sqrt = elementwise("sqrt", "The square root.", lambda x: xp.sqrt(x),
                   "y", lambda grad, y: grad / (y + y))
rsqrt = elementwise("rsqrt", "1 / sqrt(x).", lambda x: 1 / xp.sqrt(x),
                    "y", lambda grad, y: grad * y**3 * in_dtype(-0.5, y))
sin = elementwise("sin", "The sine.", lambda x: xp.sin(x),
                  "x", lambda grad, x: grad * xp.cos(x))
cos = elementwise("cos", "The cosine.", lambda x: xp.cos(x),
                  "x", lambda grad, x: -grad * xp.sin(x))
erf = elementwise("erf", "The error function: 2 / sqrt(pi) times the integral of exp(-t^2) to x.",
                  lambda x: chosen().erf(x), "x", _erf_gradient)
sign = elementwise("sign", "-1, 0 or 1; the gradient is zeros.", lambda x: xp.sign(x),
                   "y", _zeros, only_numbers)
floor = elementwise("floor", "The largest integer not above x; the gradient is zeros.",
                    lambda x: xp.floor(x), "y", _zeros, only_numbers)
ceil = elementwise("ceil", "The smallest integer not below x; the gradient is zeros.",
                   lambda x: xp.ceil(x), "y", _zeros, only_numbers)
_round = elementwise("round", "The nearest integer, the even one of two; the gradient is zeros.",
                     lambda x: xp.round(x), "y", _zeros, only_numbers)
# fmt: on


def round(x: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest integer, or multiple of 10^-decimals, the even one of two; the gradient is
    zeros."""
    if not decimals:
        return _round(x)
    (x,), scale = only_floats("round to decimals", x), 10.0 ** max(decimals, -decimals)
    return _round(x * scale) / scale if decimals > 0 else _round(x / scale) * scale


def square(x: Tensor) -> Tensor:
    """x * x; of bools int64."""
    return mul(x, x) if x.data.dtype.kind != "b" else pow(x, 2)


def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    return div(1, x)
