"""Which arrays can be sent and combined, and their memory as contiguous 1-D arrays."""

import contextvars
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

REDUCTIONS: dict[str, np.ufunc] = {
    "sum": np.add,
    "mean": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


CACHE_LINE = 64
"""Bytes."""


def address_of(x: Array) -> int:
    """The address of the array's memory in this process."""
    address: int = x.__array_interface__["data"][0]
    return address


def sendable(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of this dtype can travel as raw bytes."""
    return dtype.kind in "biufcmMSU" and dtype.itemsize > 0


def check_array(x: Any, *, writable: bool = False) -> None:
    """Raise TypeError or ValueError if the array cannot be sent (or written, if `writable`)."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"expected a NumPy array, got {type(x).__name__}")
    if not sendable(x.dtype):
        raise TypeError(f"an array of dtype {x.dtype} cannot be sent: it holds no plain numbers")
    if writable and not x.flags.writeable:
        raise ValueError(f"the array of shape {x.shape} is read-only, and the result goes into it")


@lru_cache(maxsize=256)
def check_op(dtype: np.dtype[Any], op: str) -> None:
    """Raise ValueError for an unknown reduction, TypeError for one that the dtype does not have."""
    if op not in REDUCTIONS:
        raise ValueError(f"unknown reduction {op!r}; choose one of {', '.join(REDUCTIONS)}")
    if op == "mean" and dtype.kind not in "fc":
        raise TypeError(f"the mean of {dtype} is not a {dtype}; reduce with sum and divide")
    try:
        result = REDUCTIONS[op].resolve_dtypes((dtype, dtype, None))[2]
    except TypeError:
        result = None
    if result != dtype.newbyteorder("="):
        raise TypeError(f"arrays of dtype {dtype} have no {op}")


def check_out(out: Array, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Raise ValueError unless `out` can take a result of this shape and dtype."""
    check_array(out, writable=True)
    if out.shape != tuple(shape) or out.dtype != dtype:
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}, "
            f"the result has {tuple(shape)} and {dtype}"
        )


def working_dtype(dtype: np.dtype[Any], op: str) -> np.dtype[Any]:
    """The dtype of partial results: float16 sums would lose most of their bits."""
    if dtype == np.float16 and op in ("sum", "mean", "prod"):
        return np.dtype(np.float32)
    return dtype


overflow_allowed = partial(np.errstate, over="ignore", invalid="ignore")
"""A context: an overflow or a NaN in the ranks' data is a result, not a mistake of this rank."""


def quiet_runner() -> Callable[..., None]:
    """run(function, *arguments), as in `overflow_allowed` but faster; for one thread at a time.

    NumPy 2 keeps what it does with errors in a context variable.
    """
    if not np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        return _run_quietly
    context = contextvars.Context()
    context.run(np.seterr, over="ignore", invalid="ignore")
    return context.run


def _run_quietly(function: Callable[..., None], *arguments: Any) -> None:
    with overflow_allowed():
        function(*arguments)


def flat(x: Array) -> Array:
    """The array as contiguous 1-D memory in C order: a view where possible, else a copy."""
    if not x.flags.c_contiguous:
        x = np.ascontiguousarray(x)
    return x if x.ndim == 1 else x.reshape(-1)


def parts(x: Array, count: int) -> list[Array]:
    """The 1-D array as `count` views of nearly equal length, the same cut on every rank."""
    bounds = [x.size * i // count for i in range(count + 1)]
    return [x[start:stop] for start, stop in pairwise(bounds)]


def store(x: Array, result: Array) -> None:
    """Put a flat result into the array, unless it already lies in the array's memory."""
    if not np.may_share_memory(x, result):
        with np.errstate(over="ignore"):  # a float16 result may be out of range: it is inf
            x[...] = result.reshape(x.shape)
