"""Large matrix products by Intel's MKL (`ringlet[mkl]`), where it is faster than NumPy's OpenBLAS.

Nothing is measured while a program runs: whether MKL is used depends on what is installed, on the
kind of processor and on RINGLET_BLAS, so a run has the same bits each time. MKL is told to be
reproducible (Intel, "Conditional Numerical Reproducibility"): bits depend on neither addresses nor
the number of threads. It is loaded by the first product that is large enough, and called without
the interpreter's lock.
"""

import ctypes
import functools
import os
import re
import site
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

VARIABLE = "RINGLET_BLAS"

NUMPY = "NumPy's BLAS"

NEEDED = "pip install 'ringlet[mkl]'"

LEAST = 1 << 25
"""Multiplications in a product from which MKL is faster inside a step. It is slower in smaller ones
and, up to twice, in batches of small matrices, as attention has them."""

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
"""Of the C interface to BLAS."""

SEQUENTIAL = 1
AUTO_BRANCH, STRICT = 2, 1 << 16
"""Of MKL: the library without threads; the same bits at every address and on all threads."""

INTEL_AVX_512 = re.compile(r"GenuineIntel.*\bavx512f\b", re.DOTALL)
"""Others have OpenBLAS's kernels as fast, or slower ones of MKL."""


class BLASError(RuntimeError):
    """RINGLET_BLAS has no meaning, or asks for what is not there; the message says what to do."""


def wanted(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether RINGLET_BLAS asks for MKL; where it says nothing, whether MKL is there and this is a
    processor that it is faster on. Raises BLASError if it asks for what is not there."""
    given, found = os.environ.get(VARIABLE, ""), find()
    if given not in ("", "mkl", "numpy"):
        raise BLASError(f"{VARIABLE} is {given!r}; it takes mkl or numpy")
    if given == "mkl" and found is None:
        raise BLASError(f"{VARIABLE} is mkl, and there is no MKL in {sys.prefix}/lib: {NEEDED}")
    if given or found is None:
        return given == "mkl"
    try:
        with cpuinfo.open() as file:
            return bool(INTEL_AVX_512.search(file.read(4096).partition("\n\n")[0]))
    except OSError:
        return False


def find() -> Path | None:
    """The newest libmkl_rt where pip puts it, or that MKLROOT names."""
    roots = [sys.prefix, site.getuserbase(), os.environ.get("MKLROOT")]
    for folder in (Path(root) / "lib" for root in roots if root):
        if found := sorted(folder.glob("libmkl_rt.so*")):
            return found[-1]
    return None


def chosen() -> Callable[..., Array]:
    """What is to be `xp.matmul`. What RINGLET_BLAS asks for in vain, the first large product
    tells."""
    asked = os.environ.get(VARIABLE)
    return matmul if asked not in (None, "", "numpy") or wanted() else np.matmul


def description() -> str:
    """Which library computes large products: "MKL 2026.2", or NUMPY."""
    library = _library() if wanted() else None
    if library is None:
        return NUMPY
    text = ctypes.create_string_buffer(200)
    library.MKL_Get_Version_String(text, len(text))
    found = re.search(rb"Version ([\d.]+)", text.value)
    return f"MKL {found[1].decode()}" if found else "MKL"


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """numpy.matmul, by MKL if `a` and `b` are large matrices that BLAS takes as they are."""
    if a.ndim == 2 == b.ndim and len(a) * b.size >= LEAST:
        product = _multiply(a, b, out)
        if product is not None:
            return product
    return np.matmul(a, b, out=out)


def _multiply(a: Array, b: Array, out: Array | None) -> Array | None:
    """The product (M, K) @ (K, N) -> (M, N), in `out` if given; None if it is NumPy's affair."""
    gemm = _gemms().get(a.dtype)
    (rows, inner), columns = a.shape, b.shape[1]
    if gemm is None or b.dtype != a.dtype or len(b) != inner:
        return None
    if out is None:
        out = np.empty((rows, columns), a.dtype)
    elif (
        (out.shape, out.dtype) != ((rows, columns), a.dtype)
        or not out.flags.writeable
        or np.may_share_memory(out, a)
        or np.may_share_memory(out, b)
    ):
        return None
    left, right, into = _operand(a), _operand(b), _operand(out)
    if left is None or right is None or into is None or into[0] != PLAIN:
        return None
    if left[1] == right[1] and a.strides == b.strides[::-1]:
        return None  # x @ x.T: NumPy computes half, and the result is symmetric
    gemm(
        ROW_MAJOR, left[0], right[0], rows, columns, inner,
        1.0, left[1], left[2], right[1], right[2], 0.0, into[1], into[2],
    )  # fmt: skip
    return out


def _operand(x: Array) -> tuple[int, int, int] | None:
    """A matrix as BLAS takes it: its order, its address, and the elements between its rows (or
    columns, where it is transposed); None for other strides."""
    if not x.flags.aligned:
        return None
    size = x.itemsize
    for order, turn in ((PLAIN, 1), (TRANSPOSED, -1)):
        (outer, inner), (step, unit) = x.shape[::turn], x.strides[::turn]
        if (unit == size or inner == 1) and (step >= inner * size or outer == 1):
            leading = inner if outer == 1 else step // size
            return order, x.__array_interface__["data"][0], leading
    return None


@functools.cache
def _gemms() -> dict[np.dtype[Any], Any]:
    """The functions for each dtype; none where MKL cannot be loaded."""
    library, found = _library(), {}
    if library is not None:
        size, address, order = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        for dtype, name, number in (
            (np.float32, "cblas_sgemm_64", ctypes.c_float),
            (np.float64, "cblas_dgemm_64", ctypes.c_double),
        ):
            found[np.dtype(dtype)] = gemm = getattr(library, name)
            gemm.restype = None
            gemm.argtypes = [
                order, order, order, size, size, size,
                number, address, size, address, size, number, address, size,
            ]  # fmt: skip
    return found


@functools.cache
def _library() -> ctypes.CDLL | None:
    """MKL, loaded and set up, if it is wanted. With a warning None where it does not load."""
    if not wanted():
        return None
    path = find()
    try:
        library = ctypes.CDLL(str(path))
        library.cblas_sgemm_64  # noqa: B018  # since 2022
    except (OSError, AttributeError) as error:
        text = f"{path} cannot be used ({error})"
        if os.environ.get(VARIABLE):
            raise BLASError(text) from error
        warnings.warn(f"{text}: NumPy computes large products, too", RuntimeWarning, stacklevel=2)
        return None
    threads = os.environ.get("MKL_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    if threads == "1" and "MKL_THREADING_LAYER" not in os.environ:
        library.MKL_Set_Threading_Layer(SEQUENTIAL)
    if "MKL_CBWR" not in os.environ:
        library.MKL_CBWR_Set(AUTO_BRANCH | STRICT)
    return library
