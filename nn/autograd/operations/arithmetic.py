"""Element-wise arithmetic and selection, with broadcasting."""

import numpy as np

from ringlet.nn.autograd.conversion import (
    TensorLike,
    binary,
    in_dtype,
    mask_array,
    selected,
    tensors,
    unary,
)
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, xp

__all__ = [
    "add", "clamp", "div", "floor_divide", "maximum", "minimum", "mul", "neg", "pow",
    "remainder", "sub", "where",
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
    """The elements limited to `min` to `max`; slope 1 at a bound."""

    def __init__(self, min: float | None = None, max: float | None = None) -> None:
        self.low, self.high = min, max

    def forward(self, x: Array) -> Array:
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        self.inside = (x >= low) & (x <= high)
        return xp.clip(x, in_dtype(low, x), in_dtype(high, x))

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
        share = wins.astype(grad.dtype)
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


add = binary(Add)
sub = binary(Sub)
mul = binary(Mul)
div = binary(Div)
remainder = binary(Remainder)
neg = unary(Neg)
clamp = unary(Clamp)


def pow(x: TensorLike, exponent: TensorLike) -> Tensor:
    """x ** exponent; either may be a number."""
    if isinstance(x, Tensor) and isinstance(exponent, int | float):
        return Pow(exponent)(x)
    return Power()(*tensors(x, exponent))


def floor_divide(a: TensorLike, b: TensorLike) -> Tensor:
    """The floor of a / b; it has no gradient."""
    return Tensor(xp.floor_divide(*(x.data for x in tensors(a, b))))


def maximum(a: TensorLike, b: TensorLike) -> Tensor:
    """The larger of two, element by element."""
    return Extremum(largest=True)(*tensors(a, b))


def minimum(a: TensorLike, b: TensorLike) -> Tensor:
    """The smaller of two, element by element."""
    return Extremum(largest=False)(*tensors(a, b))


def where(condition: Tensor | Array, a: TensorLike, b: TensorLike) -> Tensor:
    """a where the condition (bool) holds, else b."""
    return Where(mask_array(condition))(*tensors(a, b))
