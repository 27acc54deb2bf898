"""What is wrong with an answer, in words: the first thing that goes wrong.

Arrays that ranks put together are taken apart again: `check_sum` finds how often each rank's part
is in a sum, so that a student is told whose part is missing and not only that numbers differ.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np

from ringlet.comm.arrays import Array
from ringlet.launcher.lessons.words import array_problem, told_apart

CLOSE = 1e-7
"""Relative to the largest number: results in float64 are much closer."""


class Wrong(Exception):
    """What is wrong, in words for the student."""


def first_wrong(check: Callable[[Any], None]) -> Callable[[Any], Iterator[str]]:
    """A lesson's check, or a part of it, from a function that raises Wrong at the first mistake."""

    @wraps(check)
    def found(answer: Any) -> Iterator[str]:
        try:
            check(answer)
        except Wrong as wrong:
            yield str(wrong)

    return found


def check_array(found: Any, shape: Sequence[int], call: str, what: str = "an array") -> Array:
    """What a call has returned, if it is an array of float64 of this shape."""
    if problem := array_problem(call, found, shape, np.float64, what):
        raise Wrong(problem)
    array: Array = found
    return array


def check_tuple(found: Any, call: str, *names: str) -> tuple[Any, ...]:
    """The results of a function that returns several."""
    if not isinstance(found, tuple) or len(found) != len(names):
        given = f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__
        raise Wrong(f"{call} returned {given}; it must return ({', '.join(names)})")
    return found


def is_close(found: Array, expected: Array) -> bool:
    """Whether all numbers are the same, up to rounding."""
    scale = float(np.abs(expected).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        return bool((np.abs(found - expected) <= CLOSE * scale + 1e-12).all())


def check_close(found: Any, expected: Array, call: str, what: str, why: str = "") -> None:
    """Raise Wrong for the first number that differs."""
    array = check_array(found, expected.shape, call, what)
    if is_close(array, expected):
        return
    scale = CLOSE * float(np.abs(expected).max(initial=0.0)) + 1e-12
    with np.errstate(invalid="ignore"):
        place = tuple(int(axis[0]) for axis in np.nonzero(~(np.abs(array - expected) <= scale)))
    at = ", ".join(map(str, place))
    one, other = told_apart(array[place], expected[place])
    raise Wrong(f"{call}: {what} is {one} at ({at}); {other} is right{': ' + why if why else ''}")


def counts_in(found: Array, parts: Sequence[Array]) -> list[float] | None:
    """How often each part is in the array, if it is a sum of such; None if it is not."""
    columns = np.stack([part.reshape(-1) for part in parts], axis=1)
    if not np.isfinite(found).all():
        return None
    counts = np.linalg.lstsq(columns, found.reshape(-1), rcond=None)[0]
    if not is_close(columns @ counts, found.reshape(-1)):
        return None
    return [float(round(count, 6)) for count in counts]


def check_sum(
    found: Any, parts: Sequence[Array], names: Sequence[str], wanted: Sequence[int], call: str,
    what: str, why: str = "",
) -> None:  # fmt: skip
    """Raise Wrong unless the array holds each part as often as `wanted`: says which it does not."""
    expected = np.sum([n * part for n, part in zip(wanted, parts, strict=True)], axis=0)
    array = check_array(found, expected.shape, call, what)
    if is_close(array, expected):
        return
    counts = counts_in(array, parts)
    if counts is None:
        check_close(array, expected, call, what, why)
        return
    each = list(zip(counts, names, wanted, strict=True))
    missing = [name for count, name, n in each if n and not count]
    wrong = [f"{name} {_times(count)}" for count, name, n in each if count and count != n]
    said = [f"lacks {' and '.join(missing)}"] if missing else []
    said += [f"holds {' and '.join(wrong)}"] if wrong else []
    raise Wrong(f"{call}: {what} {' and '.join(said)}{': ' + why if why else ''}")


@contextmanager
def unchanged(what: str, **arrays: Array) -> Iterator[None]:
    """Raise Wrong if what is called inside changes an array that it was given."""
    before = {name: array.copy() for name, array in arrays.items()}
    yield
    for name, array in arrays.items():
        if not np.array_equal(array, before[name], equal_nan=True):
            raise Wrong(f"{what} changes its argument {name}: work on a copy")


def _times(count: float) -> str:
    words = {1.0: "too", 2.0: "twice"}
    return words.get(count, f"{count:g} times")
