"""Operations element by element, with broadcasting."""

from collections.abc import Sequence

import numpy as np

from ringlet.nn.tensor import Array, Gradient, Operand, Operation, Tensor, array_of, tensors


class Add(Operation):
    """a + b."""

    def forward(self, *arrays: Array) -> Array:
        a, b = arrays
        return np.add(a, b)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return grad, grad


class Sub(Operation):
    """a - b."""

    def forward(self, *arrays: Array) -> Array:
        a, b = arrays
        return np.subtract(a, b)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return grad, -grad if self.needs[1] else None


class Mul(Operation):
    """a * b."""

    def forward(self, *arrays: Array) -> Array:
        self.a, self.b = arrays
        return np.multiply(self.a, self.b)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (
            grad * self.b if self.needs[0] else None,
            grad * self.a if self.needs[1] else None,
        )


class Div(Operation):
    """a / b."""

    def forward(self, *arrays: Array) -> Array:
        a, self.b = arrays
        self.quotient = np.divide(a, self.b)
        return self.quotient

    def backward(self, grad: Array) -> Sequence[Gradient]:
        a = grad / self.b
        return a, -a * self.quotient if self.needs[1] else None


class Pow(Operation):
    """x ** exponent, for a number."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def forward(self, *arrays: Array) -> Array:
        (self.x,) = arrays
        return np.power(self.x, _number(self.exponent, self.x))

    def backward(self, grad: Array) -> Sequence[Gradient]:
        slope = np.power(self.x, _number(self.exponent - 1, self.x))
        return (grad * slope * _number(self.exponent, self.x),)


class Neg(Operation):
    """-x."""

    def forward(self, *arrays: Array) -> Array:
        return np.negative(arrays[0])

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (-grad,)


class Exp(Operation):
    """e ** x."""

    def forward(self, *arrays: Array) -> Array:
        self.y = np.exp(arrays[0])
        return self.y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * self.y,)


class Log(Operation):
    """The natural logarithm."""

    def forward(self, *arrays: Array) -> Array:
        (self.x,) = arrays
        return np.log(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad / self.x,)


class Sqrt(Operation):
    """The square root."""

    def forward(self, *arrays: Array) -> Array:
        self.y = np.sqrt(arrays[0])
        return self.y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad / (self.y + self.y),)


class Sin(Operation):
    """The sine."""

    def forward(self, *arrays: Array) -> Array:
        (self.x,) = arrays
        return np.sin(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * np.cos(self.x),)


class Cos(Operation):
    """The cosine."""

    def forward(self, *arrays: Array) -> Array:
        (self.x,) = arrays
        return np.cos(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (-grad * np.sin(self.x),)


class Abs(Operation):
    """The absolute value; slope 0 at 0."""

    def forward(self, *arrays: Array) -> Array:
        (self.x,) = arrays
        return np.abs(self.x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * np.sign(self.x),)


class Clamp(Operation):
    """The elements, none below or above the bounds; slope 1 at a bound."""

    def __init__(self, low: float | None, high: float | None) -> None:
        self.low, self.high = low, high

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        self.inside = (x >= low) & (x <= high)
        return np.clip(x, _number(low, x), _number(high, x))

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad * self.inside,)


class Extremum(Operation):
    """The larger (or smaller) of two; equal ones share the gradient."""

    def __init__(self, largest: bool) -> None:
        self.largest = largest

    def forward(self, *arrays: Array) -> Array:
        self.a, self.b = arrays
        return (np.maximum if self.largest else np.minimum)(self.a, self.b)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        wins = np.greater(self.a, self.b) if self.largest else np.less(self.a, self.b)
        share = wins.astype(grad.dtype)
        share[np.equal(self.a, self.b)] = 0.5
        return grad * share, grad * (1 - share)


class Where(Operation):
    """a where the condition holds, else b."""

    def __init__(self, condition: Array) -> None:
        self.condition = condition

    def forward(self, *arrays: Array) -> Array:
        a, b = arrays
        return np.where(self.condition, a, b)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return grad * self.condition, grad * ~self.condition


def _number(value: float, like: Array) -> Array:
    """A number in an array's dtype, so that it cannot widen the result."""
    return np.asarray(value, like.dtype)


def add(a: Operand, b: Operand) -> Tensor:
    """a + b."""
    return Add()(*tensors(a, b))


def sub(a: Operand, b: Operand) -> Tensor:
    """a - b."""
    return Sub()(*tensors(a, b))


def mul(a: Operand, b: Operand) -> Tensor:
    """a * b."""
    return Mul()(*tensors(a, b))


def div(a: Operand, b: Operand) -> Tensor:
    """a / b."""
    return Div()(*tensors(a, b))


def pow(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for a Python number."""
    return Pow(exponent)(x)


def neg(x: Tensor) -> Tensor:
    """-x."""
    return Neg()(x)


def exp(x: Tensor) -> Tensor:
    """e ** x."""
    return Exp()(x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm."""
    return Log()(x)


def sqrt(x: Tensor) -> Tensor:
    """The square root."""
    return Sqrt()(x)


def sin(x: Tensor) -> Tensor:
    """The sine."""
    return Sin()(x)


def cos(x: Tensor) -> Tensor:
    """The cosine."""
    return Cos()(x)


def abs(x: Tensor) -> Tensor:
    """The absolute value."""
    return Abs()(x)


def clamp(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """The elements, none below `min` or above `max`."""
    return Clamp(min, max)(x)


def maximum(a: Operand, b: Operand) -> Tensor:
    """The larger of two, element by element."""
    return Extremum(largest=True)(*tensors(a, b))


def minimum(a: Operand, b: Operand) -> Tensor:
    """The smaller of two, element by element."""
    return Extremum(largest=False)(*tensors(a, b))


def where(condition: Tensor | Array, a: Operand, b: Operand) -> Tensor:
    """a where the condition (bool) holds, else b."""
    return Where(np.asarray(array_of(condition), bool))(*tensors(a, b))
