"""What operations are given (tensors, arrays, numbers, masks, ids) as what they compute with."""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.promotion import FLOAT, common_dtype, is_number
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray, chosen, refuse_mixture, to_host, xp

TensorLike: TypeAlias = Tensor | Array | float | int

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
NUMBERS = (float, int)
Preparation: TypeAlias = Callable[..., Sequence[Tensor]]


def array_of(value: Any) -> Any:
    """The array of a tensor; anything else as it is."""
    return value.data if isinstance(value, Tensor) else value


def tensor_of(value: Any) -> Tensor:
    """A tensor as it is; anything else as a tensor."""
    return value if isinstance(value, Tensor) else Tensor(value)


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
    """A mask as an array of the backend, wherever it comes from; raises TypeError unless it is one
    of bools."""
    mask = asarray(array_of(value))
    if mask.dtype != bool:
        raise TypeError(f"a mask is of bools, not {mask.dtype}: compare it with a number")
    return mask


class Cast(Operation):
    """Another dtype; the engine casts the gradient back."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = dtype

    def forward(self, x: Array) -> Array:
        return x.astype(self.dtype)

    def backward(self, grad: Array) -> Gradients:
        return (grad,)


def to(x: Tensor, dtype: npt.DTypeLike) -> Tensor:
    """In another dtype."""
    return x if x.dtype == dtype else Cast(dtype)(x)


def tensors(a: TensorLike, b: TensorLike) -> Sequence[Tensor]:
    """Both as tensors of one dtype; see promotion.py."""
    if isinstance(a, Tensor):
        if isinstance(b, Tensor):
            if a.data.dtype is b.data.dtype:
                return a, b
        elif isinstance(b, NUMBERS) and a.data.dtype.kind == "f":
            return a, Tensor(asarray(b, a.data.dtype))
    elif isinstance(a, NUMBERS) and isinstance(b, Tensor) and b.data.dtype.kind == "f":
        return Tensor(asarray(a, b.data.dtype)), b
    return promoted(a, b)


def promoted(*operands: Any) -> list[Tensor]:
    """Tensors, arrays and numbers as tensors of their common dtype."""
    beside = next((x for x in operands if isinstance(x, Tensor)), None)
    if all(isinstance(x, NUMBERS) for x in operands):
        raise TypeError(f"an operation needs a tensor, not only numbers: {operands}")
    for x in operands:
        if not isinstance(x, Tensor):
            operand_array(x, beside)
        if not is_number(x) and not hasattr(x, "ndim"):
            raise TypeError(f"operands are tensors, arrays and numbers, not {type(x).__name__}")
    dtype = common_dtype(*operands)
    return [to(x, dtype) if isinstance(x, Tensor) else Tensor(asarray(x, dtype)) for x in operands]


def number_in(value: Any, dtype: np.dtype[Any]) -> Any:
    """A number in a dtype. Raises TypeError or OverflowError if it is none of its values: 0.5 is no
    integer; floats are rounded."""
    with np.errstate(over="ignore"):
        number = dtype.type(value)
    if dtype.kind in "biu" and number != value:
        raise TypeError(f"{value} is no value of {dtype}; convert the tensor with to() first")
    if dtype.kind == "f" and np.isinf(number) and not np.isinf(value):
        raise OverflowError(f"{value} is out of the range of {dtype}")
    return number


# What operations make of tensors of integers, or refuse; for `unary` and `binary`.


def as_floats(name: str, *operands: Tensor) -> Sequence[Tensor]:
    """Integers and bools in float32."""
    return [x if x.dtype.kind in "fcV" else to(x, FLOAT) for x in operands]


def only_numbers(name: str, *operands: Any) -> Sequence[Any]:
    """Raise TypeError if there are bools."""
    if any(isinstance(x, bool) or getattr(x, "dtype", FLOAT).kind == "b" for x in operands):
        raise TypeError(f"{name} does not take bools; ~ & | ^ are the operators of logic")
    return operands


def only_floats(name: str, *operands: Tensor) -> Sequence[Tensor]:
    """Raise TypeError if there is a tensor of integers or bools."""
    for x in operands:
        if x.dtype.kind in "biu":
            raise TypeError(
                f"{name} takes tensors of floats, not of {x.dtype}; convert with float()"
            )
    return operands


def only_ordered(name: str, *operands: Tensor) -> Sequence[Tensor]:
    """Raise TypeError if there is a tensor of complex numbers, which have no order."""
    for x in operands:
        if x.data.dtype.kind == "c":
            raise TypeError(f"{name} does not take {x.dtype}: complex numbers have no order")
    return operands


def of_one_dtype(name: str, *operands: Any) -> None:
    """Raise TypeError naming the dtypes if they differ: products do not mix them."""
    dtypes = [x.dtype for x in operands]
    if any(dtype != dtypes[0] for dtype in dtypes):
        raise TypeError(f"{name} of {' and '.join(map(str, dtypes))}: convert with to() first")


def in_dtype(value: float, like: Array) -> Any:
    """A number in an array's dtype, so that it cannot widen the result; it stays on the host."""
    return like.dtype.type(value)


def axis_of(dim: int, ndim: int) -> int:
    """The axis, counted from 0; raises IndexError if there is none of this number."""
    count = ndim or 1  # 0-d tensors have axes 0 and -1, as in PyTorch
    if not -count <= dim < count:
        raise IndexError(f"dimension {dim} is out of range for a tensor of {ndim} axes")
    return dim % count


def axes_of(dims: int | Sequence[int], ndim: int) -> list[int]:
    """Axes, counted from 0; raises ValueError if one appears twice."""
    axes = [axis_of(dim, ndim) for dim in ([dims] if isinstance(dims, int) else dims)]
    if len(set(axes)) < len(axes):
        raise ValueError(f"an axis appears twice in {dims}")
    return axes


def length_of(x: Tensor, dim: int) -> int:
    """The length of an axis; raises IndexError if there is none of this number."""
    if not x.ndim:
        raise IndexError("a 0-d tensor has no axis to take parts of")
    return x.shape[axis_of(dim, x.ndim)]


def size_of(size: int, what: str, least: int = 0) -> int:
    """A size that is not below `least`; raises ValueError naming it otherwise."""
    if size < least:
        raise ValueError(f"{what} is {size}; it must be at least {least}")
    return size


def lengths_of(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """x.reshape(2, 3) and x.reshape((2, 3)) are the same."""
    return tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape


def selected(grad: Array, share: Array) -> Array:
    """grad * share, and 0 where the share is 0 (or False), also of what is infinite or NaN.

    On the host a product is several times as fast as `where`, and right if all is finite.
    """
    if not chosen().on_device and math.isfinite(xp.vdot(grad, grad)):
        return grad * share
    return xp.where(share.astype(bool), grad * share, in_dtype(0, grad))


def unary(
    kind: Callable[P, Operation], integers: Preparation | None = None, along: bool = False
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """The function of one tensor that runs an operation; it has the operation's docstring, and
    takes its options after the tensor. `integers` prepares tensors of integers and bools.
    Operations `along` axes take a 0-d tensor as one of one element, `axis` for `dim`, and a `dtype`
    in which to compute."""

    def function(input: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if kwargs and along:
            input = _cast_by_name(input, _by_dim(kwargs))
        if integers is not None and input.data.dtype.kind in "biu":
            (input,) = integers(function.__name__, input)
        if along and not input.data.ndim:
            return kind(*args, **kwargs)(input.reshape(1)).reshape(())
        try:
            operation = kind(*args, **kwargs)
        except TypeError as error:
            raise _of_function(function.__name__, error, *args, *kwargs) from None
        return operation(input)

    return named(
        kind.__name__.lower(),
        kind.__doc__,
        cast(Callable[Concatenate[Tensor, P], Tensor], function),
    )


def _of_function(name: str, error: TypeError, *options: Any) -> TypeError:
    """An operation's error about its options, as one of the function's."""
    if "takes no arguments" in str(error):
        return TypeError(f"{name}() takes no argument {', '.join(map(str, options))}")
    return TypeError(re.sub(r"^\w+\.__init__\(\)", f"{name}()", str(error)))


def binary(
    kind: type[Operation], integers: Preparation | None = None
) -> Callable[[TensorLike, TensorLike], Tensor]:
    """The function of two tensors, arrays or numbers that runs an operation; see `unary`."""
    name = kind.__name__.lower()

    def function(input: TensorLike, other: TensorLike) -> Tensor:
        x, y = tensors(input, other)
        if integers is not None and x.data.dtype.kind in "biu":
            x, y = integers(name, x, y)
        return kind()(x, y)

    return named(name, kind.__doc__, function)


def _by_dim(options: dict[str, Any]) -> dict[str, Any]:
    """`dim` is called `axis` in NumPy; functions of PyTorch take both names."""
    if "axis" in options:
        options["dim"] = options.pop("axis")
    return options


def _cast_by_name(x: Tensor, options: dict[str, Any]) -> Tensor:
    dtype = options.pop("dtype", None)
    return x if dtype is None else to(x, dtype)


def along_axis(function: F) -> F:
    """The function, which takes `axis` for `dim`."""

    @functools.wraps(function)
    def either(*args: Any, **options: Any) -> Any:
        return function(*args, **(_by_dim(options) if options else options))

    return cast(F, either)


def named(name: str, meaning: str | None, function: F) -> F:
    """The function under a name, with a docstring."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = meaning
    return function
