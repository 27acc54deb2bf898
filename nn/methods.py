"""The operations that are methods and operators of tensors.

Operations create tensors, so tensor.py cannot import them: `Tensor` declares the names with
placeholders, and this file, which `ringlet.nn` imports, replaces each with the function of that
name. A method is the function with the tensor as its first argument.
"""

from collections.abc import Callable
from typing import Any

from ringlet.nn import functional
from ringlet.nn.autograd import engine
from ringlet.nn.autograd.conversion import TensorLike, operand_array
from ringlet.nn.autograd.grad_mode import is_grad_enabled
from ringlet.nn.autograd.operations.indexing import index_for
from ringlet.nn.autograd.tensor import Tensor, any_placeholder, placeholder
from ringlet.nn.backend import xp

ALIASES = {
    "__add__": "add", "__radd__": "add", "__sub__": "sub", "__mul__": "mul", "__rmul__": "mul",
    "__truediv__": "div", "__floordiv__": "floor_divide", "__mod__": "remainder",
    "__pow__": "pow", "__neg__": "neg", "__abs__": "abs", "__matmul__": "matmul", "__eq__": "eq",
    "__ne__": "ne", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__and__": "bitwise_and", "__rand__": "bitwise_and", "__or__": "bitwise_or",
    "__ror__": "bitwise_or", "__xor__": "bitwise_xor", "__rxor__": "bitwise_xor",
    "__invert__": "bitwise_not", "__getitem__": "getitem", "clip": "clamp", "view": "reshape",
    "swapaxes": "transpose",
}  # fmt: skip


def setitem(x: Tensor, index: Any, value: TensorLike) -> None:
    """Write into the array; refused where a gradient would silently be wrong."""
    if is_grad_enabled() and (x.requires_grad or getattr(value, "requires_grad", False)):
        raise RuntimeError(
            "elements that gradients depend on cannot be set: use where, scatter or masked_fill, "
            "or no_grad() if no gradient is needed"
        )
    x.data[index_for(x.shape, index)] = operand_array(value, x)


def in_place(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, TensorLike], Tensor]:
    """What `x += other` calls: under no_grad() it writes into x, as in PyTorch; where gradients
    are recorded the result is a new tensor."""

    def change(x: Tensor, other: TensorLike) -> Tensor:
        result = function(x, other)
        if is_grad_enabled():
            return result
        xp.copyto(x.data, result.data)
        return x

    return change


def reflected(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, TensorLike], Tensor]:
    """The function with its inputs swapped: what `number - tensor` calls."""
    return lambda x, other: function(other, x)


FUNCTIONS = vars(functional) | {
    "backward": engine.backward,
    "__setitem__": setitem,
    "__rsub__": reflected(functional.sub),
    "__rtruediv__": reflected(functional.div),
    "__rpow__": reflected(functional.pow),
    "__rfloordiv__": reflected(functional.floor_divide),
    "__rmod__": reflected(functional.remainder),
}

for _name in ("add", "sub", "mul", "div"):
    setattr(Tensor, f"__i{'truediv' if _name == 'div' else _name}__", in_place(FUNCTIONS[_name]))

for _name, _value in list(vars(Tensor).items()):
    if _value in (placeholder, any_placeholder):
        setattr(Tensor, _name, FUNCTIONS[ALIASES.get(_name, _name)])
