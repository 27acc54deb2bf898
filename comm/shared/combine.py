"""Combine the ranks' arrays, in the order of ranks, in blocks that fit the cache."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ringlet.comm.arrays import REDUCTIONS, Array, working_dtype
from ringlet.comm.machine import level_2_bytes

_LEAST, _MOST = 16 << 10, 256 << 10


@lru_cache(maxsize=1024)
def block_elements(itemsize: int, arrays: int) -> int:
    """How many elements of this many arrays to combine at once.

    The blocks together fill the cache, so what was read is still there when the result is stored.
    Smaller ones cost more of the interpreter's time. Measured with 64 MiB of float32 on an EPYC
    with 512 KiB, a quarter of this size took 1.15 times as long with two ranks, 1.5 with four; on a
    Xeon with 2 MiB, 512 KiB took 1.06 to 1.12 times as long as 256 KiB, and 1 MiB 1.3 times.
    """
    nbytes = min(max(level_2_bytes() // arrays, _LEAST), _MOST)
    return max(64, nbytes // itemsize)


class Combiner:
    """Combines blocks of `arrays` arrays of a dtype in their order; float16 sums in float32.

    `is_ufunc`: it does what `ufunc` does with two arrays, and nothing else.

    For one call at a time: partial results lie in memory of its own. To be called in the context
    of `overflow_allowed`.
    """

    def __init__(self, op: str, dtype: np.dtype[Any], arrays: int) -> None:
        self.dtype = dtype
        self.ufunc, wide = REDUCTIONS[op], working_dtype(dtype, op)
        self._mean, self._arrays, self._plain = op == "mean", arrays, wide == dtype
        self.is_ufunc = self._plain and arrays == 2 and not self._mean
        self._wide: dict[str, Any] = {} if self._plain else {"dtype": wide}
        self._partial = np.empty(0, wide)

    def __call__(self, out: Array, sources: Sequence[Array]) -> None:
        """out = sources[0] op sources[1] op ..., where `out` may be one of them."""
        if self.is_ufunc:
            self.ufunc(sources[0], sources[1], out=out)
            return
        if self._partial.size < out.size and not (self._plain and self._arrays == 2):
            self._partial = np.empty(out.size, self._partial.dtype)
        first, partial = sources[0], self._partial[: out.size]
        for number in range(1, self._arrays):
            into = out if self._plain and number == self._arrays - 1 else partial
            self.ufunc(first, sources[number], out=into, **self._wide)
            first = into
        if self._mean:
            np.divide(first, self._arrays, out=first)
        if not self._plain:
            np.copyto(out, first, casting="same_kind")
