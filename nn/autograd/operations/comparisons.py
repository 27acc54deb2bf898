"""Comparisons and logic: tensors of bool, without gradients."""

from collections.abc import Callable, Sequence
from typing import Any

from ringlet.nn.autograd.conversion import (
    NUMBERS,
    TensorLike,
    named,
    of_one_dtype,
    only_ordered,
    tensors,
)
from ringlet.nn.autograd.promotion import is_number
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, xp

__all__ = [
    "allclose", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "eq", "equal", "ge",
    "gt", "isclose", "isfinite", "isinf", "isnan", "le", "logical_and",
    "logical_not", "logical_or", "logical_xor", "lt", "ne",
]  # fmt: skip


def comparison(
    name: str, meaning: str, function: Callable[[Any, Any], Array], *, order: bool = True
) -> Callable[[TensorLike, TensorLike], Tensor]:
    """A function of two tensors, arrays or numbers that returns a tensor of bool.

    With `order` complex numbers are refused: they have none.
    """

    def compare(input: TensorLike, other: TensorLike) -> Tensor:
        a, b = input, other
        if isinstance(a, Tensor) and isinstance(b, NUMBERS):
            if order and a.data.dtype.kind == "c":
                only_ordered(name, a)
            return Tensor(xp.asarray(function(a.data, b)))  # exact, also out of the dtype's range
        x, y = tensors(a, b)
        if order and x.data.dtype.kind == "c":
            only_ordered(name, x)
        return Tensor(xp.asarray(function(x.data, y.data)))

    return named(name, meaning, compare)


def bitwise(
    name: str, meaning: str, function: Callable[[Any, Any], Array]
) -> Callable[[TensorLike, TensorLike], Tensor]:
    """A function of the bits of two tensors of integers or bools, arrays or numbers."""

    def combine(a: TensorLike, b: TensorLike) -> Tensor:
        x, y = only_bits(name, *tensors(a, b))
        return Tensor(xp.asarray(function(x.data, y.data)))

    return named(name, meaning, combine)


def only_bits(name: str, *operands: Tensor) -> Sequence[Tensor]:
    """Raise TypeError unless all are tensors of integers or bools."""
    for x in operands:
        if x.dtype.kind not in "biu":
            raise TypeError(f"{name} takes tensors of integers or bools, not of {x.dtype}")
    return operands


def predicate(
    name: str, meaning: str, function: Callable[[Array], Array]
) -> Callable[[Tensor], Tensor]:
    """A function of one tensor that returns a tensor of bool."""

    def check(x: Tensor) -> Tensor:
        return Tensor(xp.asarray(function(x.data)))

    return named(name, meaning, check)


eq = comparison("eq", "a == b.", lambda a, b: xp.equal(a, b), order=False)
ne = comparison("ne", "a != b.", lambda a, b: xp.not_equal(a, b), order=False)
lt = comparison("lt", "a < b.", lambda a, b: xp.less(a, b))
le = comparison("le", "a <= b.", lambda a, b: xp.less_equal(a, b))
gt = comparison("gt", "a > b.", lambda a, b: xp.greater(a, b))
ge = comparison("ge", "a >= b.", lambda a, b: xp.greater_equal(a, b))
logical_and = comparison("logical_and", "a and b.", lambda a, b: xp.logical_and(a, b), order=False)
logical_or = comparison("logical_or", "a or b.", lambda a, b: xp.logical_or(a, b), order=False)
logical_xor = comparison(
    "logical_xor", "a or b, not both.", lambda a, b: xp.logical_xor(a, b), order=False
)
logical_not = predicate("logical_not", "Not x.", lambda x: xp.logical_not(x))
bitwise_and = bitwise("bitwise_and", "The bits of both.", lambda a, b: xp.bitwise_and(a, b))
bitwise_or = bitwise("bitwise_or", "The bits of either.", lambda a, b: xp.bitwise_or(a, b))
bitwise_xor = bitwise("bitwise_xor", "The bits of one only.", lambda a, b: xp.bitwise_xor(a, b))
isnan = predicate("isnan", "Whether each element is NaN.", lambda x: xp.isnan(x))
isinf = predicate("isinf", "Whether each element is infinite.", lambda x: xp.isinf(x))
isfinite = predicate(
    "isfinite", "Whether elements are finite and not NaN.", lambda x: xp.isfinite(x)
)


def bitwise_not(x: Tensor) -> Tensor:
    """Each bit flipped; of bools, not x."""
    only_bits("bitwise_not", x)
    return Tensor(xp.asarray(xp.invert(x.data)))


def isclose(
    a: Tensor, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """|a - b| <= atol + rtol |b|, or both are NaN. Raises TypeError if the dtypes differ."""
    if not is_number(b):
        of_one_dtype("isclose", a, b)
    x, y = tensors(a, b)
    if not (rtol >= 0 and atol >= 0):
        raise ValueError(f"rtol is {rtol} and atol is {atol}; both must be at least 0")
    return Tensor(xp.asarray(xp.isclose(x.data, y.data, rtol, atol, equal_nan)))


def allclose(
    a: Tensor, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether isclose holds everywhere."""
    return bool(isclose(a, b, rtol, atol, equal_nan).all())


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether shapes and all elements are the same."""
    return bool(xp.array_equal(a.data, b.data))
