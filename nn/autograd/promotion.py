"""Which dtype operands of several dtypes are computed in: PyTorch's rule, for every operation.

Dtypes are of four categories: bool, integers, floats, complex numbers. The highest among the
operands is the result's. Within a category, tensors that have axes decide; 0-d tensors count only
if their category is higher than those tensors', and Python numbers only if theirs is higher than
any tensor's. Numbers are then int64, float32 or complex64: float32 is the default dtype.
"""

from functools import cache, reduce
from typing import Any

import numpy as np

DType = np.dtype[Any]

FLOAT = np.dtype(np.float32)
"""What integers and Python numbers become where the result is a float."""

CATEGORIES = "b", "iu", "fV", "c"  # V: bfloat16
OF_NUMBERS: tuple[DType, ...] = (
    np.dtype(bool), np.dtype(np.int64), FLOAT, np.dtype(np.complex64),
)  # fmt: skip
OF_PYTHON = {np.dtype(np.float64): OF_NUMBERS[2], np.dtype(np.complex128): OF_NUMBERS[3]}
"""What tensors of Python's numbers are, by the dtype that NumPy gives those."""


def category(dtype: DType) -> int:
    """0: bool, 1: integers, 2: floats, 3: complex numbers; TypeError for others."""
    for number, kinds in enumerate(CATEGORIES):
        if dtype.kind in kinds:
            return number
    raise TypeError(f"operands hold numbers, not {dtype}")


def is_number(operand: Any) -> bool:
    """Whether it is a number of Python's or a scalar of NumPy's."""
    return isinstance(operand, int | float | complex | np.generic)


def _of_number(number: Any) -> DType:
    if isinstance(number, np.generic):
        return OF_NUMBERS[category(number.dtype)]
    kinds = bool, int, float, complex
    return next(d for kind, d in zip(kinds, OF_NUMBERS, strict=True) if isinstance(number, kind))


def is_of_python(data: Any) -> bool:
    """Whether it is a number of Python's, or a list of such: they have no dtype of their own."""
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return isinstance(data, int | float | complex | list | tuple) and not hasattr(data, "dtype")


def common_dtype(*operands: Any) -> DType:
    """The dtype that tensors, arrays and numbers are computed in. Raises TypeError if none is."""
    ranks: list[list[DType]] = [[], [], []]  # with axes, 0-d, numbers
    for operand in operands:
        if is_number(operand):
            ranks[2].append(_of_number(operand))
        else:
            ranks[not operand.ndim].append(np.dtype(operand.dtype))
    return reduce(_lifted, (reduce(_among_equals, rank) for rank in ranks[::-1] if rank))


@cache
def _among_equals(a: DType, b: DType) -> DType:
    low, high = sorted((a, b), key=category)
    if category(low) != category(high) and category(low) < 2:
        return high
    dtype = np.result_type(low, high)
    if category(dtype) != category(high):  # uint64 with int64 is float64 in NumPy
        raise TypeError(f"{a} and {b} have no common dtype; convert one with to()")
    return dtype


@cache
def _lifted(lower: DType, higher: DType) -> DType:
    """The dtype of the operands that decide, or of the others if those are of a higher category."""
    if category(lower) <= category(higher):
        return higher
    return np.result_type(higher, OF_NUMBERS[3]) if category(higher) == 2 else lower


def fits(dtype: DType, target: DType) -> bool:
    """Whether values may be written into an array of dtype `target`: not floats into integers."""
    return category(dtype) <= category(target)
