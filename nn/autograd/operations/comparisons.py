"""Comparisons and logic: tensors of bool, without gradients."""

from typing import Any

from ringlet.nn.autograd.conversion import TensorLike, operand_array
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, xp

__all__ = [
    "allclose", "eq", "equal", "ge", "gt", "isclose", "isfinite", "isinf", "isnan", "le",
    "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne",
]  # fmt: skip


def eq(a: TensorLike, b: TensorLike) -> Tensor:
    """a == b."""
    return _made(xp.equal(*_both(a, b)))


def ne(a: TensorLike, b: TensorLike) -> Tensor:
    """a != b."""
    return _made(xp.not_equal(*_both(a, b)))


def lt(a: TensorLike, b: TensorLike) -> Tensor:
    """a < b."""
    return _made(xp.less(*_both(a, b)))


def le(a: TensorLike, b: TensorLike) -> Tensor:
    """a <= b."""
    return _made(xp.less_equal(*_both(a, b)))


def gt(a: TensorLike, b: TensorLike) -> Tensor:
    """a > b."""
    return _made(xp.greater(*_both(a, b)))


def ge(a: TensorLike, b: TensorLike) -> Tensor:
    """a >= b."""
    return _made(xp.greater_equal(*_both(a, b)))


def logical_and(a: TensorLike, b: TensorLike) -> Tensor:
    """Both."""
    return _made(xp.logical_and(*_both(a, b)))


def logical_or(a: TensorLike, b: TensorLike) -> Tensor:
    """One or both."""
    return _made(xp.logical_or(*_both(a, b)))


def logical_xor(a: TensorLike, b: TensorLike) -> Tensor:
    """One, not both."""
    return _made(xp.logical_xor(*_both(a, b)))


def logical_not(x: Tensor) -> Tensor:
    """Not."""
    return _made(xp.logical_not(x.data))


def isnan(x: Tensor) -> Tensor:
    """Whether each is not a number."""
    return _made(xp.isnan(x.data))


def isinf(x: Tensor) -> Tensor:
    """Whether each is infinite."""
    return _made(xp.isinf(x.data))


def isfinite(x: Tensor) -> Tensor:
    """Whether each is a number and not infinite."""
    return _made(xp.isfinite(x.data))


def isclose(a: Tensor, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8) -> Tensor:
    """|a - b| <= atol + rtol |b|."""
    return _made(xp.isclose(*_both(a, b), rtol, atol))


def allclose(a: Tensor, b: TensorLike, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """Whether isclose holds everywhere."""
    return bool(xp.allclose(*_both(a, b), rtol, atol))


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether shapes and all elements are the same."""
    return bool(xp.array_equal(a.data, b.data))


def _made(array: Array) -> Tensor:
    return Tensor(xp.asarray(array))


def _both(a: TensorLike, b: TensorLike) -> tuple[Any, Any]:
    return operand_array(a, b), operand_array(b, a)
