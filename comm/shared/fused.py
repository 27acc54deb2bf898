"""The sum of two arrays, stored in both, in one pass over memory.

A ufunc has one result, so NumPy takes two passes: the sum, and a copy of it. BLAS has one that does
both: rotm, the modified Givens rotation, replaces two vectors x and y by h11 x + h12 y and
h21 x + h22 y (Lawson, Hanson, Kincaid and Krogh, "Basic linear algebra subprograms for Fortran
usage", 1979). Where each factor is 1, both become x + y, with nothing rounded but the sum. The BLAS
is the one that NumPy itself is linked with.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from ringlet.comm.arrays import Array, address_of

IntoBoth: TypeAlias = Callable[[Array, Array], None]

MOST_BYTES = 8 << 30
"""Of two arrays: some builds of BLAS count elements in 32 bits, and none can be interrupted."""

_NAMES = ("scipy_cblas_{}rotm64_", "cblas_{}rotm64_", "scipy_cblas_{}rotm", "cblas_{}rotm")
_FULL = -1  # rotm's flag: all four factors are given


@lru_cache
def sum_into_both(dtype: np.dtype[Any]) -> IntoBoth | None:
    """What does x, y = x + y, x + y with contiguous arrays of a dtype; None where BLAS has nothing
    for it, or not to the bit."""
    letter = {np.dtype("f4"): "s", np.dtype("f8"): "d"}.get(dtype)
    linked = getattr(sys.modules.get("numpy.linalg._umath_linalg"), "__file__", None)
    if letter is None or linked is None:
        return None
    library = ctypes.CDLL(linked)  # its symbols, and those of the libraries that it needs
    found = [getattr(library, name.format(letter), None) for name in _NAMES]
    rotm = next(filter(None, found), None)
    if rotm is None:
        return None
    length, vector = ctypes.c_int64, ctypes.c_void_p
    rotm.argtypes, rotm.restype = (length, vector, length, vector, length, vector), None
    ones = np.array([_FULL, 1, 1, 1, 1], dtype)

    def into_both(x: Array, y: Array) -> None:
        rotm(x.size, address_of(x), 1, address_of(y), 1, address_of(ones))

    return into_both if _is_exact(into_both, dtype) else None


def _is_exact(into_both: IntoBoth, dtype: np.dtype[Any]) -> bool:
    """Whether it gives the bits of np.add, also in zeros, tiny numbers and a NaN's payload. (Which
    of two NaNs' payloads a sum has depends in NumPy, too, on where in the array it is.)"""
    limits, word = np.finfo(dtype), f"u{dtype.itemsize}"
    numbers = [0.0, -0.0, 0.1, -3.3, limits.tiny, -limits.tiny / 8, limits.max, np.inf, -np.inf]
    payload = np.full(1, np.nan, dtype).view(word) + np.ones(1, word)
    values = np.concatenate([np.array(numbers, dtype), payload.view(dtype)])
    first, second = (pairs.ravel() for pairs in np.meshgrid(values, values))
    x, y = first.copy(), second.copy()
    into_both(x, y)
    with np.errstate(all="ignore"):
        right = np.add(first, second).tobytes()
    return x.tobytes() == y.tobytes() == right
