"""What operations are given (tensors, arrays, numbers, masks, ids) as what they compute with."""

import math
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import numpy as np

from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray, chosen, refuse_mixture, to_host, xp

TensorLike: TypeAlias = Tensor | Array | float | int

F = TypeVar("F", bound=Callable[..., Tensor])
P = ParamSpec("P")


def array_of(value: Any) -> Any:
    """The array of a tensor; anything else as it is."""
    return value.data if isinstance(value, Tensor) else value


def host_array(value: Any) -> Array:
    """Ids, targets or indices as an array on the host, where they are checked.

    Fetching an array from the device makes the host wait for it.
    """
    array = array_of(value)
    return to_host(array) if isinstance(array, xp.ndarray) else np.asarray(array)


def operand_array(value: Any, other: Any = None) -> Any:
    """The array of an operand; raises MixedArrays if it lives elsewhere than the backend's."""
    if isinstance(value, Tensor):
        return value.data
    if not isinstance(value, xp.ndarray):
        refuse_mixture("an operation", (value, array_of(other)))  # a number is welcome
    return value


def mask_array(value: Any) -> Array:
    """A mask as an array of bool, wherever it comes from."""
    return asarray(array_of(value), bool)


def tensors(a: TensorLike, b: TensorLike) -> tuple[Tensor, Tensor]:
    """Both as tensors; a Python number takes the dtype of the tensor beside it."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a, b
    dtypes = [operand.dtype for operand in (a, b) if isinstance(operand, Tensor | xp.ndarray)]
    dtype = np.result_type(*dtypes) if dtypes else None
    return _tensor(a, b, dtype), _tensor(b, a, dtype)


def _tensor(operand: TensorLike, other: TensorLike, dtype: np.dtype[Any] | None) -> Tensor:
    if isinstance(operand, Tensor):
        return operand
    array = operand if isinstance(operand, float | int) else operand_array(operand, other)
    return Tensor(array if isinstance(array, xp.ndarray) else asarray(array, dtype))


def in_dtype(value: float, like: Array) -> Any:
    """A number in an array's dtype, so that it cannot widen the result; it stays on the host."""
    return like.dtype.type(value)


def axis_of(dim: int, ndim: int) -> int:
    """The axis, counted from 0; raises IndexError if there is none of this number."""
    count = ndim or 1  # 0-d tensors have axes 0 and -1, as in PyTorch
    if not -count <= dim < count:
        raise IndexError(f"dimension {dim} is out of range for a tensor of {ndim} axes")
    return dim % count


def size_of(size: int, what: str, least: int = 0) -> int:
    """A size that is not below `least`; raises ValueError naming it otherwise."""
    if size < least:
        raise ValueError(f"{what} is {size}; it must be at least {least}")
    return size


def selected(grad: Array, share: Array) -> Array:
    """grad * share, and 0 where the share is 0 (or False), also of what is infinite or NaN.

    On the host a product is several times as fast as `where`, and right if all is finite.
    """
    if not chosen().on_device and math.isfinite(xp.vdot(grad, grad)):
        return grad * share
    return xp.where(share.astype(bool), grad * share, in_dtype(0, grad))


def unary(kind: Callable[P, Operation]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """The function of one tensor that runs an operation; it has the operation's docstring, and
    takes its options after the tensor."""

    def function(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return kind(*args, **kwargs)(x)

    return named(kind.__name__.lower(), kind.__doc__, function)


def binary(kind: type[Operation]) -> Callable[[TensorLike, TensorLike], Tensor]:
    """The function of two tensors, arrays or numbers that runs an operation."""

    def function(a: TensorLike, b: TensorLike) -> Tensor:
        return kind()(*tensors(a, b))

    return named(kind.__name__.lower(), kind.__doc__, function)


def named(name: str, meaning: str | None, function: F) -> F:
    """The function under a name, with a docstring."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = meaning
    return function
