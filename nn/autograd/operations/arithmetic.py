"""Element-wise arithmetic and selection, with broadcasting."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import (
    NUMBERS,
    TensorLike,
    as_floats,
    binary,
    in_dtype,
    mask_array,
    number_in,
    only_numbers,
    only_ordered,
    promoted,
    selected,
    tensors,
    unary,
)
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.comparisons import ge, le, ne
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, xp

__all__ = [
    "add", "clamp", "div", "floor_divide", "maximum", "minimum", "mul", "neg", "pow",
    "remainder", "sub", "true_divide", "where",
]  # fmt: skip


class Add(Operation):
    """a + b."""

    def forward(self, a: Array, b: Array) -> Array:
        return xp.add(a, b)

    def backward(self, grad: Array) -> Gradients:
        return grad, grad


class Sub(Operation):
    """a - b."""

    def forward(self, a: Array, b: Array) -> Array:
        return xp.subtract(a, b)

    def backward(self, grad: Array) -> Gradients:
        return grad, -grad if self.needs[1] else None


class Mul(Operation):
    """a * b."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return xp.multiply(self.a, self.b)

    def backward(self, grad: Array) -> Gradients:
        return (
            grad * self.b if self.needs[0] else None,
            grad * self.a if self.needs[1] else None,
        )


class Div(Operation):
    """a / b."""

    def forward(self, a: Array, b: Array) -> Array:
        self.b = b
        self.quotient = xp.divide(a, self.b)
        return self.quotient

    def backward(self, grad: Array) -> Gradients:
        a = grad / self.b
        return a, -a * self.quotient if self.needs[1] else None


class Pow(Operation):
    """x ** exponent, for a number."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def forward(self, x: Array) -> Array:
        self.x = x
        return xp.power(self.x, in_dtype(self.exponent, self.x))

    def backward(self, grad: Array) -> Gradients:
        if not self.exponent:
            return (xp.zeros_like(grad),)
        slope = xp.power(self.x, in_dtype(self.exponent - 1, self.x))
        return (grad * slope * in_dtype(self.exponent, self.x),)


class Power(Operation):
    """a ** b. Where a is 0 the gradient of b >= 0 is 0, as in PyTorch."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        self.y = xp.power(self.a, self.b)
        return self.y

    def backward(self, grad: Array) -> Gradients:
        a, b = self.a, self.b
        to_a = to_b = None
        if self.needs[0]:
            slope = b * xp.power(a, xp.where(b == 0, 1, b - 1))
            to_a = xp.where(b == 0, in_dtype(0, grad), grad * slope)
        if self.needs[1]:
            flat = (a == 0) & (b >= 0)
            slope = self.y * xp.log(xp.where(flat, 1, a))
            to_b = xp.where(flat, in_dtype(0, grad), grad * slope)
        return to_a, to_b


class Remainder(Operation):
    """a - b * floor(a / b): the sign is that of b, as in Python."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return xp.remainder(self.a, self.b)

    def backward(self, grad: Array) -> Gradients:
        return grad, -grad * xp.floor_divide(self.a, self.b) if self.needs[1] else None


class Neg(Operation):
    """-x."""

    def forward(self, x: Array) -> Array:
        return xp.negative(x)

    def backward(self, grad: Array) -> Gradients:
        return (-grad,)


class Clamp(Operation):
    """The elements limited to numbers; slope 1 at a bound."""

    def __init__(self, low: float | None, high: float | None) -> None:
        self.low, self.high = low, high

    def forward(self, x: Array) -> Array:
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        self.inside = (x >= low) & (x <= high)
        bounds = (None if bound is None else in_dtype(bound, x) for bound in (self.low, self.high))
        return xp.clip(x, *bounds)

    def backward(self, grad: Array) -> Gradients:
        return (selected(grad, self.inside),)


class Extremum(Operation):
    """The larger (or smaller) of two; equal elements share the gradient."""

    def __init__(self, largest: bool) -> None:
        self.largest = largest

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return (xp.maximum if self.largest else xp.minimum)(self.a, self.b)

    def backward(self, grad: Array) -> Gradients:
        wins = xp.greater(self.a, self.b) if self.largest else xp.less(self.a, self.b)
        share = xp.asarray(wins.astype(grad.dtype))
        share[xp.equal(self.a, self.b)] = 0.5
        return selected(grad, share), selected(grad, 1 - share)


class Where(Operation):
    """a where the condition holds, else b."""

    def __init__(self, condition: Array) -> None:
        self.condition = condition

    def forward(self, a: Array, b: Array) -> Array:
        return xp.where(self.condition, a, b)

    def backward(self, grad: Array) -> Gradients:
        zero = in_dtype(0, grad)
        return (
            xp.where(self.condition, grad, zero) if self.needs[0] else None,
            xp.where(self.condition, zero, grad) if self.needs[1] else None,
        )


def whole_quotients(name: str, a: Tensor, b: Tensor) -> Sequence[Tensor]:
    """Integers; raises ZeroDivisionError if there is a divisor of 0."""
    only_numbers(name, a, b)
    if not xp.all(b.data):
        raise ZeroDivisionError(f"{name} of integers by 0")
    return a, b


mul = binary(Mul)
true_divide = binary(Div, as_floats)
remainder = binary(Remainder, whole_quotients)
neg = unary(Neg, only_numbers)


def add(a: TensorLike, b: TensorLike, *, alpha: float = 1) -> Tensor:
    """a + alpha * b."""
    x, y = tensors(a, b)
    return Add()(x, y if alpha == 1 else mul(y, number_in(alpha, y.dtype)))


def sub(a: TensorLike, b: TensorLike, *, alpha: float = 1) -> Tensor:
    """a - alpha * b."""
    x, y = tensors(a, b)
    if x is not a or y is not b or x.data.dtype.kind == "b":
        only_numbers("sub", a, b)
    return Sub()(x, y if alpha == 1 else mul(y, number_in(alpha, y.dtype)))


def div(a: TensorLike, b: TensorLike, *, rounding_mode: str | None = None) -> Tensor:
    """a / b; rounded to "floor" or to "trunc" (towards 0) it has no gradient, and integers stay
    integers."""
    if rounding_mode is None:
        return true_divide(a, b)
    if rounding_mode not in ("floor", "trunc"):
        raise ValueError(f"rounding_mode is {rounding_mode!r}; it must be 'floor' or 'trunc'")
    x, y = tensors(a, b)
    if rounding_mode == "floor":
        return floor_divide(x, y)
    if x.dtype.kind not in "biu":
        return Tensor(xp.trunc(x.data / y.data))
    floor = floor_divide(x, y)
    return floor + ((floor < 0) & (floor * y != x)).to(x.dtype)


def pow(x: TensorLike, exponent: TensorLike) -> Tensor:
    """x ** exponent; either may be a number. Integers to negative powers raise ValueError."""
    if isinstance(x, Tensor) and isinstance(exponent, NUMBERS) and x.data.dtype.kind in "fc":
        return Pow(exponent)(x)
    base, power = only_numbers("pow", *tensors(x, exponent))
    if power.dtype.kind == "i" and xp.any(power.data < 0):
        raise ValueError("pow of integers to a negative power: convert them with float()")
    return Power()(base, power)


def floor_divide(a: TensorLike, b: TensorLike) -> Tensor:
    """The floor of a / b; it has no gradient. Raises ZeroDivisionError for integers by 0."""
    x, y = tensors(a, b)
    if x.dtype.kind in "biu":
        whole_quotients("floor_divide", x, y)
    return Tensor(xp.floor_divide(x.data, y.data))


BOUNDS = (*NUMBERS, type(None))


def clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """The elements limited to `min` to `max`, numbers or tensors; slope 1 at a bound."""
    if min is None and max is None:
        raise ValueError("clamp takes min, max or both")
    if not isinstance(min, BOUNDS) or not isinstance(max, BOUNDS):
        x = x if min is None else where(ge(x, min) | ne(x, x), x, min)  # NaN where either is
        return x if max is None else where(le(x, max) | ne(x, x), x, max)
    if x.data.dtype.kind != "f":
        bounds = [bound for bound in (min, max) if bound is not None]
        x = only_ordered("clamp", *only_numbers("clamp", *promoted(x, *bounds)))[0]
    return Clamp(min, max)(x)


def _extremum(name: str, a: TensorLike, b: TensorLike) -> Tensor:
    x, y = tensors(a, b)
    if x.data.dtype.kind == "c":
        only_ordered(name, x)
    return Extremum(largest=name == "maximum")(x, y)


def maximum(a: TensorLike, b: TensorLike) -> Tensor:
    """The larger of two, element by element."""
    return _extremum("maximum", a, b)


def minimum(a: TensorLike, b: TensorLike) -> Tensor:
    """The smaller of two, element by element."""
    return _extremum("minimum", a, b)


def where(condition: Tensor | Array, a: TensorLike, b: TensorLike) -> Tensor:
    """a where the condition (bool) holds, else b."""
    return Where(mask_array(condition))(*tensors(a, b))
