"""Other dtypes. Arrays stay on the device where they are: a process has one."""

import builtins
from typing import Any

import numpy as np
import numpy.typing as npt

from ringlet.nn.autograd.conversion import Cast
from ringlet.nn.autograd.operations.shapes import clone
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, Device, check_device

__all__ = ["is_floating_point", "to"]


def to(x: Tensor, *args: Any, copy: builtins.bool = False, **kwargs: Any) -> Tensor:
    """In a dtype, in that of another tensor, or on a device, which must be the backend's. Only
    floats and complex numbers have gradients."""
    dtype = cast_to(*args, **kwargs)
    if dtype is not None and dtype != x.dtype:
        return Cast(dtype)(x) if dtype.kind in "fcV" else Tensor(x.data.astype(dtype))
    return clone(x) if copy else x


def cast_to(
    *args: Any, device: Any = None, dtype: Any = None, non_blocking: builtins.bool = False
) -> np.dtype[Any] | None:
    """The dtype, if any, that the arguments of `to` ask for, after checking the device."""
    for each in args:
        if isinstance(each, Tensor):
            dtype = each.dtype
        elif isinstance(each, Device) or str(each).partition(":")[0] in ("cpu", "cuda"):
            device = each
        elif each is not None and not isinstance(each, builtins.bool):  # which is non_blocking
            dtype = each
    check_device(device)
    return None if dtype is None else np.dtype(dtype)


def type_as(x: Tensor, other: Tensor | Array) -> Tensor:
    """In another tensor's dtype."""
    return to(x, other.dtype)


def type(x: Tensor, dtype: npt.DTypeLike) -> Tensor:
    """In a dtype."""
    return to(x, dtype)


def double(x: Tensor) -> Tensor:
    """In float64."""
    return to(x, np.float64)


def float(x: Tensor) -> Tensor:
    """In float32."""
    return to(x, np.float32)


def half(x: Tensor) -> Tensor:
    """In float16."""
    return to(x, np.float16)


def long(x: Tensor) -> Tensor:
    """In int64."""
    return to(x, np.int64)


def int(x: Tensor) -> Tensor:
    """In int32."""
    return to(x, np.int32)


def bool(x: Tensor) -> Tensor:
    """Whether each element is not 0."""
    return to(x, np.bool_)


def cpu(x: Tensor) -> Tensor:
    """The tensor itself; refused on a GPU, from which `numpy()` copies."""
    return to(x, "cpu")


def cuda(x: Tensor) -> Tensor:
    """The tensor itself; refused unless nn.use("cupy") has chosen a GPU."""
    return to(x, "cuda")


def is_floating_point(input: Tensor) -> builtins.bool:
    """Whether the elements are floats."""
    return input.dtype.kind in "fV"
