"""Comparisons and logic: tensors of bool, without gradients."""

import numpy as np

from ringlet.nn.tensor import Array, Operand, Tensor, array_of


def eq(a: Operand, b: Operand) -> Tensor:
    """a == b."""
    return _made(np.equal(array_of(a), array_of(b)))


def ne(a: Operand, b: Operand) -> Tensor:
    """a != b."""
    return _made(np.not_equal(array_of(a), array_of(b)))


def lt(a: Operand, b: Operand) -> Tensor:
    """a < b."""
    return _made(np.less(array_of(a), array_of(b)))


def le(a: Operand, b: Operand) -> Tensor:
    """a <= b."""
    return _made(np.less_equal(array_of(a), array_of(b)))


def gt(a: Operand, b: Operand) -> Tensor:
    """a > b."""
    return _made(np.greater(array_of(a), array_of(b)))


def ge(a: Operand, b: Operand) -> Tensor:
    """a >= b."""
    return _made(np.greater_equal(array_of(a), array_of(b)))


def logical_and(a: Operand, b: Operand) -> Tensor:
    """Both."""
    return _made(np.logical_and(array_of(a), array_of(b)))


def logical_or(a: Operand, b: Operand) -> Tensor:
    """One or both."""
    return _made(np.logical_or(array_of(a), array_of(b)))


def logical_xor(a: Operand, b: Operand) -> Tensor:
    """One, not both."""
    return _made(np.logical_xor(array_of(a), array_of(b)))


def logical_not(x: Tensor) -> Tensor:
    """Not."""
    return _made(np.logical_not(x.data))


def isnan(x: Tensor) -> Tensor:
    """Whether each is not a number."""
    return _made(np.isnan(x.data))


def isinf(x: Tensor) -> Tensor:
    """Whether each is infinite."""
    return _made(np.isinf(x.data))


def isfinite(x: Tensor) -> Tensor:
    """Whether each is a number and not infinite."""
    return _made(np.isfinite(x.data))


def isclose(a: Tensor, b: Operand, rtol: float = 1e-5, atol: float = 1e-8) -> Tensor:
    """|a - b| <= atol + rtol |b|."""
    return _made(np.isclose(a.data, array_of(b), rtol, atol))


def allclose(a: Tensor, b: Operand, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """Whether isclose holds everywhere."""
    return bool(np.allclose(a.data, array_of(b), rtol, atol))


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether shapes and all elements are the same."""
    return np.array_equal(a.data, b.data)


def _made(array: Array) -> Tensor:
    return Tensor(np.asarray(array))
