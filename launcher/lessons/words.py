"""What several checks say, in the same words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def asked(function: str, *arguments: Any, **named: Any) -> str:
    """A call, as a student would write it: shard(tokens=10, ranks=3)."""
    words = [*map(repr, arguments), *(f"{name}={value!r}" for name, value in named.items())]
    return f"{function}({', '.join(words)})"


def whole(value: Any) -> int | None:
    """A whole number, also one of NumPy's; None for anything else."""
    return int(value) if isinstance(value, int | np.integer) else None


def told_apart(found: float, right: float) -> tuple[str, str]:
    """Two numbers in so many digits, at least six, that they do not look the same."""
    for digits in range(6, 17):
        one, other = f"{found:.{digits}g}", f"{right:.{digits}g}"
        if one != other:
            break
    return one, other


def array_problem(
    call: str, got: Any, shape: Sequence[int], dtype: Any = None, what: str = "an array"
) -> str | None:
    """Why what a call has returned is not an array of this shape, and dtype if one is given."""
    if got is None:
        return f"{call} returned None; it must return {what} of shape {tuple(shape)}"
    if not isinstance(got, np.ndarray):
        kind = type(got).__name__
        return f"{call} returned a {kind}; it must return {what} of shape {tuple(shape)}"
    if got.shape != tuple(shape):
        return f"{call} returned {what} of shape {got.shape}; it must be {tuple(shape)}"
    if dtype is not None and got.dtype != np.dtype(dtype):
        return f"{call} returned {what} of {got.dtype}; it must be {np.dtype(dtype)}"
    return None


def number_problem(
    call: str, got: Any, expected: float, unit: str, usual: Mapping[str, float] | None = None
) -> str | None:
    """Why what a call has returned is not this number, up to rounding. `usual`: what is said of
    the numbers that usual mistakes give."""
    if got is None or isinstance(got, bool) or not isinstance(got, int | float | np.number):
        kind = "None" if got is None else f"a {type(got).__name__}"
        return f"{call}: this is {kind}; it must be a number, {expected:.6g} {unit}"
    if not _near(float(got), expected):
        found, right = told_apart(float(got), expected)
        mistakes = (usual or {}).items()
        why = "; or ".join(words for words, value in mistakes if _near(float(got), value))
        return f"{call}: this is {found}; {right} {unit} is right{': ' + why if why else ''}"
    return None


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-6 * max(1e-9, abs(other))
