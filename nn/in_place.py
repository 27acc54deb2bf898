"""Tensors that are changed in place: `x += y`, `x[i] = y`, and the methods whose names end in _.

Where no gradient is recorded (in `no_grad()`, or of tensors that need none) the new elements are
written into the tensor's memory, so that views see them. Where one is, the tensor gets new memory
and a new history; what was kept of the old one stays as it was. PyTorch's rules hold: a leaf that
requires a gradient is changed under `no_grad()` only, and the shape and dtype stay. One thing is
refused that PyTorch can do: a change with a gradient of a tensor whose memory others share.
"""

from collections.abc import Callable
from typing import Any

from ringlet.nn import functional as F
from ringlet.nn import init
from ringlet.nn.autograd.conversion import TensorLike, operand_array, tensors
from ringlet.nn.autograd.grad_mode import is_grad_enabled
from ringlet.nn.autograd.operations.indexing import Scatter, index_for
from ringlet.nn.autograd.promotion import fits, is_number
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import asarray, xp
from ringlet.nn.random import next_generator
from ringlet.nn.versions import changed

Change = Callable[..., Tensor]


def assign(x: Tensor, name: str, compute: Callable[[Tensor], Tensor], casts: bool) -> Tensor:
    """Make x what `compute` returns for its elements and history of before."""
    recorded = is_grad_enabled() and x.requires_grad
    if recorded and x.is_leaf:
        raise RuntimeError(
            f"a leaf that requires grad is being used in an in-place operation ({name}): change "
            "it in no_grad(), or compute a new tensor"
        )
    before = Tensor(x.data)
    before.requires_grad, before.operation = x.requires_grad, x.operation
    result = compute(before)
    if result.shape != x.shape:
        raise RuntimeError(
            f"the result of {name} has shape {result.shape}, which cannot be written into a "
            f"tensor of shape {x.shape}"
        )
    if not casts and not fits(result.dtype, x.dtype):
        raise RuntimeError(
            f"the result of {name} is {result.dtype}, which can't be cast to the tensor's {x.dtype}"
        )
    if not result.requires_grad or x.dtype.kind not in "fcV":
        if recorded:
            raise RuntimeError(f"{name} has no gradient, and this tensor needs one")
        _write(x, name, result)
    elif x.shares_memory():
        raise RuntimeError(
            f"{name} would change memory that another tensor shares (a view, or the base of this "
            "one), without changing that one's gradient: write x = x + y or x[i] = x[i] + y, or "
            "change a clone()"
        )
    else:
        result = result.to(x.dtype)
        x.data, x.operation, x.requires_grad = result.data, result.operation, True
    return x


def _write(x: Tensor, name: str, result: Tensor) -> None:
    try:
        x.data[...] = result.data
    except ValueError as error:
        raise RuntimeError(
            f"{name} cannot write into this tensor ({error}): expanded tensors use one element "
            "several times; change a clone()"
        ) from None
    changed(x.data)


def in_place(name: str, function: Change, casts: bool = False) -> Change:
    """The form of a function that changes its first argument. With `casts` the result may be of
    any dtype."""

    def change(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return assign(x, name, lambda before: function(before, *args, **kwargs), casts)

    change.__name__ = change.__qualname__ = name
    change.__doc__ = f"In place: {function.__doc__}" if function.__doc__ else None
    return change


def setitem(x: Tensor, index: Any, value: TensorLike) -> None:
    """Write into the elements at an index."""
    place = index_for(x.shape, index)
    if not (is_grad_enabled() and (x.requires_grad or getattr(value, "requires_grad", False))):
        x.data[place] = operand_array(value, x)
        changed(x.data)
        return
    source, _ = tensors(value, x)
    extra = source.ndim - x.data[place].ndim
    if extra > 0:  # axes of length 1
        source = source.reshape(source.shape[extra:])
    assign(x, "x[...] = y", lambda before: Scatter(place, add=False)(before, source), casts=True)


def overwritten(values: Callable[..., TensorLike], meaning: str) -> Change:
    """The function that replaces all elements by `values(x, ...)`."""

    def function(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return F.where(xp.asarray(True), values(x, *args, **kwargs), x)

    function.__doc__ = meaning
    return function


def drawn(fill: Change) -> Callable[..., Tensor]:
    """A new tensor like the first argument, filled by a function of nn.init."""
    return lambda x, *args, **kwargs: fill(Tensor(xp.empty(x.shape, x.dtype)), *args, **kwargs)


def _bernoulli(x: Tensor, p: TensorLike = 0.5, *, generator: init.Generator = None) -> Tensor:
    draws = next_generator(generator).random(x.shape)
    return Tensor(xp.asarray(draws) < operand_array(p)).to(x.dtype)


def _exponential(x: Tensor, lambd: float = 1.0, *, generator: init.Generator = None) -> Tensor:
    draws = next_generator(generator).standard_exponential(x.shape)
    return Tensor(xp.asarray(draws / lambd)).to(x.dtype)


def _copied(x: Tensor, src: Any, non_blocking: bool = False) -> TensorLike:
    return src if isinstance(src, Tensor) or is_number(src) else asarray(src)


OVERWRITING = {
    "copy_": overwritten(_copied, "The elements of a tensor or any array, broadcast."),
    "fill_": overwritten(lambda x, value: value, "One number everywhere."),
    "zero_": overwritten(lambda x: 0, "Zeros."),
    "normal_": overwritten(drawn(init.normal_), "Normal: mean, std."),
    "uniform_": overwritten(drawn(init.uniform_), "Uniform between two bounds."),
    "bernoulli_": overwritten(_bernoulli, "1 with probability p, else 0."),
    "exponential_": overwritten(_exponential, "Exponential, with rate lambd."),
}

NAMES = (
    "abs", "add", "addcdiv", "addcmul", "ceil", "clamp", "cos", "cumsum", "div", "erf", "exp",
    "expm1", "floor", "floor_divide", "index_fill", "lerp", "log", "log10", "log1p", "log2",
    "logical_and", "logical_not", "logical_or", "logical_xor", "masked_fill", "mul", "neg", "pow",
    "reciprocal", "relu", "remainder", "round", "rsqrt", "scatter", "scatter_add", "sigmoid",
    "sign", "sin", "sqrt", "square", "sub", "tanh", "tril", "triu",
)  # fmt: skip

FUNCTIONS = {**{f"{name}_": getattr(F, name) for name in NAMES}, "clip_": F.clamp}

METHODS: dict[str, Callable[..., Any]] = {
    "__setitem__": setitem,
    **{name: in_place(name, function) for name, function in FUNCTIONS.items()},
    **{name: in_place(name, function, casts=True) for name, function in OVERWRITING.items()},
}
