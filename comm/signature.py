"""What ranks must agree on in one call."""

from typing import Any, NamedTuple

import numpy as np

from ringlet.comm.arrays import check_op, dtype_named, name_of


class Signature(NamedTuple):
    """What ranks must agree on in one call: operation, dtype and shape of the array, and detail.

    `detail` is the rest as text: "sum", "root 0".
    """

    operation: str
    dtype: str
    shape: tuple[int, ...]
    detail: str

    def __str__(self) -> str:
        detail = f", {self.detail}" if self.detail else ""
        if not self.dtype:
            return f"{self.operation}{detail}"
        return f"{self.operation} of {self.shape} {_dtype_name(self.dtype)}{detail}"


def _dtype_name(text: str) -> str:
    """A dtype's usual name, with its byte order; what comes from outside may be none."""
    try:
        return str(dtype_named(text))
    except TypeError:
        return repr(text)


COMBINING = ("all_reduce", "reduce_scatter", "reduce")
"""The operations that reduce."""

ROWS = ("all_gather", "gather")
"""Each rank's array is a row of the result."""

CUT = ("reduce_scatter", "all_to_all")
"""Arrays are cut into parts along their first axis, one for each rank."""

BARRIER = Signature("barrier", "", (), "")


def signature_of(
    operation: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    op: str = "",
    root: int | None = None,
) -> Signature:
    """The signature of a call on an array; raises as `check_op`."""
    if operation in COMBINING:
        check_op(dtype, op)
    at_root = "" if root is None else f"root {root}"
    return Signature(operation, name_of(dtype), shape, ", ".join(filter(None, (op, at_root))))


def size_text(nbytes: int) -> str:
    """4 B, 1.0 KiB, 4.0 MiB."""
    if nbytes < 1024:
        return f"{nbytes} B"
    exponent = min(4, (nbytes.bit_length() - 1) // 10)
    return f"{nbytes / 1024**exponent:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[exponent - 1]}"
