"""The operations that are methods and operators of tensors.

Operations create tensors, so tensor.py cannot import them: `Tensor` declares the names with
placeholders, and this file, which `ringlet.nn` imports, replaces each with the function of that
name. A method is the function with the tensor as its first argument.
"""

from collections.abc import Callable
from typing import Any

from ringlet.nn import creation, functional, in_place
from ringlet.nn.autograd import engine
from ringlet.nn.autograd.conversion import TensorLike
from ringlet.nn.autograd.operations import casting
from ringlet.nn.autograd.promotion import is_number
from ringlet.nn.autograd.sharing import Sharing, change_placeholder
from ringlet.nn.autograd.tensor import Tensor, any_placeholder, placeholder

ALIASES = {
    "__add__": "add", "__radd__": "add", "__sub__": "sub", "__mul__": "mul", "__rmul__": "mul",
    "__truediv__": "true_divide", "__floordiv__": "floor_divide", "__mod__": "remainder",
    "__pow__": "pow", "__neg__": "neg", "__abs__": "abs", "__matmul__": "matmul",
    "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__and__": "bitwise_and", "__rand__": "bitwise_and", "__or__": "bitwise_or",
    "__ror__": "bitwise_or", "__xor__": "bitwise_xor", "__rxor__": "bitwise_xor",
    "__invert__": "bitwise_not", "__getitem__": "getitem", "clip": "clamp", "view": "reshape",
    "swapaxes": "transpose",
}  # fmt: skip


def reflected(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, TensorLike], Tensor]:
    """The function with its inputs swapped: what `number - tensor` calls."""
    return lambda x, other: function(other, x)


def equality(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Any]:
    """The function of operands; whatever is none (None, text) is unequal, as in Python."""

    def compare(x: Tensor, other: Any) -> Any:
        return function(x, other) if hasattr(other, "dtype") or is_number(other) else NotImplemented

    return compare


FUNCTIONS = {
    **vars(casting),
    **vars(functional),
    **in_place.METHODS,
    **creation.METHODS,
    "backward": engine.backward,
    "__rsub__": reflected(functional.sub),
    "__rtruediv__": reflected(functional.true_divide),
    "__eq__": equality(functional.eq),
    "__ne__": equality(functional.ne),
    "__rpow__": reflected(functional.pow),
    "__rfloordiv__": reflected(functional.floor_divide),
    "__rmod__": reflected(functional.remainder),
}

for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    _change = in_place.in_place(f"{_name}=", FUNCTIONS[ALIASES[f"__{_name}__"]])
    setattr(Tensor, f"__i{_name}__", _change)

for _name, _value in [*vars(Sharing).items(), *vars(Tensor).items()]:
    if _value in (placeholder, any_placeholder, change_placeholder):
        setattr(Tensor, _name, FUNCTIONS[ALIASES.get(_name, _name)])
