"""Which arrays can be sent and combined, and their memory as contiguous 1-D arrays."""

import contextvars
import ctypes
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

REGISTERED = 2
"""`isbuiltin` of a dtype that another package has registered with NumPy."""


def address_of(x: Array) -> int:
    """The address of the array's memory in this process."""
    try:  # five times as fast as the other way
        return ctypes.addressof(ctypes.c_char.from_buffer(x))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):  # read-only, empty, or of a dtype without buffers
        address: int = x.__array_interface__["data"][0]
        return address


_registered: dict[str, np.dtype[Any]] = {}
"""The dtypes of other packages (as ml_dtypes' bfloat16) that have been met here, by name."""


@lru_cache(maxsize=1024)
def name_of(dtype: np.dtype[Any]) -> str:
    """What the dtype is called between ranks; empty if its arrays cannot travel as raw bytes."""
    if dtype.isbuiltin == REGISTERED:
        return dtype.name if _registered.setdefault(dtype.name, dtype) == dtype else ""
    try:
        plain = dtype.kind in "biufcmMSU" and dtype.itemsize > 0 and np.dtype(dtype.str) == dtype
    except TypeError:
        plain = False
    return dtype.str if plain else ""


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype that another rank calls so; raises TypeError if there is none here."""
    try:
        dtype = _registered.get(name) or np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or name_of(dtype) != name:
        raise TypeError(
            f"{name!r:.80} is not a dtype known here; if a package defines it, import that first"
        )
    return dtype


def check_array(x: Any, *, writable: bool = False) -> None:
    """Raise TypeError or ValueError if the array cannot be sent (or written, if `writable`)."""
    kind = type(x)
    if kind is not np.ndarray and kind is not np.memmap:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"expected a NumPy array, got {kind.__name__}")
        raise TypeError(
            f"a {kind.__name__} cannot be sent, only plain memory: pass np.asarray(x), its numbers "
            "without what the type adds to them (a mask, a unit, other rules)"
        )
    if not name_of(x.dtype):
        raise TypeError(f"an array of dtype {x.dtype} cannot be sent: it holds no plain numbers")
    if writable:
        check_writable(x)


def check_writable(x: Array) -> None:
    """Raise ValueError if no result can go into the array."""
    if not x.flags.writeable:
        raise ValueError(f"the array of shape {x.shape} is read-only, and the result goes into it")


def _holds_fractions(dtype: np.dtype[Any]) -> bool:
    """Whether quotients of its numbers are of the dtype, too."""
    if dtype.isbuiltin != REGISTERED:
        return dtype.kind in "fc"
    try:
        return bool(np.full(1, 0.5, np.float32).astype(dtype).astype(np.float32)[0] == 0.5)
    except TypeError:
        return False


@lru_cache(maxsize=256)
def check_op(dtype: np.dtype[Any], op: str) -> None:
    """Raise ValueError for an unknown reduction, TypeError for one that the dtype does not have."""
    if op not in REDUCTIONS:
        raise ValueError(f"unknown reduction {op!r}; choose one of {', '.join(REDUCTIONS)}")
    if op == "mean" and not _holds_fractions(dtype):
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


@lru_cache(maxsize=256)
def working_dtype(dtype: np.dtype[Any], op: str) -> np.dtype[Any]:
    """The dtype of partial results: sums in float16, or less, would lose most of their bits."""
    if dtype.itemsize <= 2 and op in ("sum", "mean", "prod") and _holds_fractions(dtype):
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
    if result is not x and result.base is not x and not np.may_share_memory(x, result):
        with np.errstate(over="ignore"):  # a float16 result may be out of range: it is inf
            x[...] = result.reshape(x.shape)
