"""Comparisons and logic: tensors of bool, without gradients."""

from collections.abc import Callable
from typing import Any

from ringlet.nn.autograd.conversion import TensorLike, named, operand_array
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, xp

__all__ = [
    "allclose", "eq", "equal", "ge", "gt", "isclose", "isfinite", "isinf", "isnan", "le",
    "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne",
]  # fmt: skip


def comparison(
    name: str, meaning: str, function: Callable[[Any, Any], Array]
) -> Callable[[TensorLike, TensorLike], Tensor]:
    """A function of two tensors, arrays or numbers that returns a tensor of bool."""

    def compare(a: TensorLike, b: TensorLike) -> Tensor:
        return Tensor(xp.asarray(function(operand_array(a, b), operand_array(b, a))))

    return named(name, meaning, compare)


def predicate(
    name: str, meaning: str, function: Callable[[Array], Array]
) -> Callable[[Tensor], Tensor]:
    """A function of one tensor that returns a tensor of bool."""

    def check(x: Tensor) -> Tensor:
        return Tensor(xp.asarray(function(x.data)))

    return named(name, meaning, check)


eq = comparison("eq", "a == b.", lambda a, b: xp.equal(a, b))
ne = comparison("ne", "a != b.", lambda a, b: xp.not_equal(a, b))
lt = comparison("lt", "a < b.", lambda a, b: xp.less(a, b))
le = comparison("le", "a <= b.", lambda a, b: xp.less_equal(a, b))
gt = comparison("gt", "a > b.", lambda a, b: xp.greater(a, b))
ge = comparison("ge", "a >= b.", lambda a, b: xp.greater_equal(a, b))
logical_and = comparison("logical_and", "a and b.", lambda a, b: xp.logical_and(a, b))
logical_or = comparison("logical_or", "a or b.", lambda a, b: xp.logical_or(a, b))
logical_xor = comparison("logical_xor", "a or b, not both.", lambda a, b: xp.logical_xor(a, b))
logical_not = predicate("logical_not", "Not x.", lambda x: xp.logical_not(x))
isnan = predicate("isnan", "Whether each element is NaN.", lambda x: xp.isnan(x))
isinf = predicate("isinf", "Whether each element is infinite.", lambda x: xp.isinf(x))
isfinite = predicate(
    "isfinite", "Whether elements are finite and not NaN.", lambda x: xp.isfinite(x)
)


def isclose(a: Tensor, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8) -> Tensor:
    """|a - b| <= atol + rtol |b|."""
    return Tensor(xp.asarray(xp.isclose(a.data, operand_array(b, a), rtol, atol)))


def allclose(a: Tensor, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """Whether isclose holds everywhere."""
    return bool(xp.allclose(a.data, operand_array(b, a), rtol, atol))


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether shapes and all elements are the same."""
    return bool(xp.array_equal(a.data, b.data))
