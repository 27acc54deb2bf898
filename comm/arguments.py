"""Arguments that are numbers: checked in the thread that calls, before anything is sent."""

import operator
from typing import Any

import numpy as np

from ringlet.comm.errors import LONGEST_S

NUMBERS = (int, float, np.integer, np.floating)


def whole_number(value: Any, what: str) -> int:
    """The value as an int, be it Python's or NumPy's; raises TypeError for anything else."""
    if type(value) is int:
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{what} is a whole number, not {value!r}")


def rank_in_group(value: Any, size: int) -> int:
    """The rank as an int; raises ValueError if a group of this size has no such rank."""
    rank = whole_number(value, "a rank")
    if not 0 <= rank < size:
        raise ValueError(f"there is no rank {rank} in a group of {size}")
    return rank


def seconds(value: Any) -> float:
    """A timeout as a float; raises TypeError for what is no number, ValueError for less than 0."""
    if isinstance(value, bool) or not isinstance(value, NUMBERS):
        raise TypeError(f"a timeout is a number of seconds, not {value!r}")
    if not value >= 0:
        raise ValueError(f"a timeout is a number of seconds from 0 up, not {value!r}")
    return float(value) if value < LONGEST_S else LONGEST_S
