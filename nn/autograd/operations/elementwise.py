"""Functions of each element."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from ringlet.nn.autograd.conversion import in_dtype
from ringlet.nn.autograd.deferred import Gradient
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, chosen, xp

__all__ = [
    "ceil",
    "cos",
    "erf",
    "exp",
    "expm1",
    "floor",
    "log",
    "log1p",
    "log2",
    "log10",
    "reciprocal",
    "round",
    "rsqrt",
    "sign",
    "sin",
    "sqrt",
    "square",
]  # fmt: skip


class Exp(Operation):
    """e ** x."""

    def forward(self, x: Array) -> Array:
        self.y = xp.exp(x)
        return self.y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * self.y,)


class Expm1(Operation):
    """exp(x) - 1, exact near 0."""

    def forward(self, x: Array) -> Array:
        self.y = xp.expm1(x)
        return self.y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * (self.y + 1),)


class Log(Operation):
    """The natural logarithm."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return xp.log(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad / self.x,)


class Log1p(Operation):
    """log(1 + x), exact near 0."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return xp.log1p(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad / (self.x + 1),)


class LogToBase(Operation):
    """The logarithm to base 2 or 10."""

    def __init__(self, base: int) -> None:
        self.base = base

    def forward(self, x: Array) -> Array:
        self.x = x
        return (xp.log2 if self.base == 2 else xp.log10)(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad / (self.x * in_dtype(math.log(self.base), self.x)),)


class Sqrt(Operation):
    """The square root."""

    def forward(self, x: Array) -> Array:
        self.y = xp.sqrt(x)
        return self.y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad / (self.y + self.y),)


class Rsqrt(Operation):
    """1 / sqrt(x)."""

    def forward(self, x: Array) -> Array:
        self.y = 1 / xp.sqrt(x)
        return self.y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * self.y**3 * in_dtype(-0.5, self.y),)


class Sin(Operation):
    """The sine."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return xp.sin(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * xp.cos(self.x),)


class Cos(Operation):
    """The cosine."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return xp.cos(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (-grad * xp.sin(self.x),)


class Erf(Operation):
    """The error function: 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return error_function(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        slope = xp.exp(-self.x * self.x) * in_dtype(2 / math.sqrt(math.pi), self.x)
        return (grad * slope,)


class Steps(Operation):
    """A function that is constant between its jumps: its gradient is zeros."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self.function = function

    def forward(self, x: Array) -> Array:
        return self.function(x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (xp.zeros_like(grad),)


def error_function(x: Array) -> Array:
    """The error function: to double precision for float64, to 2e-7 for narrower dtypes."""
    if x.dtype == np.float64:
        return chosen().erf(x)
    # Abramowitz and Stegun, "Handbook of mathematical functions" (1964), 7.1.26
    a = xp.abs(x)
    t = 1 / (1 + a * in_dtype(0.3275911, x))
    series = t * in_dtype(1.061405429, x)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + in_dtype(coefficient, x)) * t
    return xp.copysign(1 - series * xp.exp(-a * a), x)


def exp(x: Tensor) -> Tensor:
    """e ** x."""
    return Exp()(x)


def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, exact near 0."""
    return Expm1()(x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm."""
    return Log()(x)


def log1p(x: Tensor) -> Tensor:
    """log(1 + x), exact near 0."""
    return Log1p()(x)


def log2(x: Tensor) -> Tensor:
    """The logarithm to base 2."""
    return LogToBase(2)(x)


def log10(x: Tensor) -> Tensor:
    """The logarithm to base 10."""
    return LogToBase(10)(x)


def sqrt(x: Tensor) -> Tensor:
    """The square root."""
    return Sqrt()(x)


def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x)."""
    return Rsqrt()(x)


def square(x: Tensor) -> Tensor:
    """x * x."""
    return Tensor.__mul__(x, x)


def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    return Tensor.__rtruediv__(x, 1)


def sin(x: Tensor) -> Tensor:
    """The sine."""
    return Sin()(x)


def cos(x: Tensor) -> Tensor:
    """The cosine."""
    return Cos()(x)


def erf(x: Tensor) -> Tensor:
    """The error function."""
    return Erf()(x)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; the gradient is zeros."""
    return Steps(xp.sign)(x)


def floor(x: Tensor) -> Tensor:
    """The largest integer that is not above; the gradient is zeros."""
    return Steps(xp.floor)(x)


def ceil(x: Tensor) -> Tensor:
    """The smallest integer that is not below; the gradient is zeros."""
    return Steps(xp.ceil)(x)


def round(x: Tensor) -> Tensor:
    """The nearest integer, of two the even one; the gradient is zeros."""
    return Steps(xp.round)(x)
