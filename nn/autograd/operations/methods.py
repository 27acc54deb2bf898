"""The operations that are methods and operators of tensors, set on the class by name.

Operations make tensors, so `Tensor` cannot import them; it declares the names and this file, which
`ringlet.nn` imports, fills them. A method is the function of that name with the tensor as its
first argument.
"""

from collections.abc import Callable
from typing import Any

from ringlet.nn.autograd import engine
from ringlet.nn.autograd.conversion import TensorLike, operand_array
from ringlet.nn.autograd.grad_mode import is_grad_enabled
from ringlet.nn.autograd.operations import (
    activations,
    arithmetic,
    comparisons,
    elementwise,
    indexing,
    normalization,
    products,
    reductions,
    shapes,
)
from ringlet.nn.autograd.tensor import Tensor

METHODS = {
    arithmetic: "abs add clamp div maximum minimum mul neg pow remainder sub",
    comparisons: "allclose eq equal ge gt isclose isfinite isinf isnan le logical_and logical_not "
    "logical_or logical_xor lt ne",
    elementwise: "ceil cos erf exp expm1 floor log log10 log1p log2 reciprocal round rsqrt sign "
    "sin sqrt square",
    activations: "relu sigmoid tanh",
    normalization: "log_softmax softmax",
    reductions: "all amax amin any argmax argmin argsort cumsum logsumexp max mean min norm prod "
    "sort std sum topk var",
    products: "bmm dot matmul mm",
    shapes: "clone contiguous expand flatten movedim permute repeat reshape squeeze t to transpose "
    "unsqueeze",
    indexing: "chunk flip gather index_select masked_fill masked_select narrow repeat_interleave "
    "roll scatter scatter_add select split tril triu unbind",
}

ALIASES = {
    "add": "__add__ __radd__", "sub": "__sub__", "mul": "__mul__ __rmul__", "div": "__truediv__",
    "remainder": "__mod__", "pow": "__pow__", "neg": "__neg__", "abs": "__abs__", "clamp": "clip",
    "eq": "__eq__", "ne": "__ne__", "lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__",
    "logical_and": "__and__", "logical_or": "__or__", "logical_xor": "__xor__",
    "logical_not": "__invert__", "matmul": "__matmul__", "reshape": "view",
    "transpose": "swapaxes",
}  # fmt: skip


def setitem(x: Tensor, index: Any, value: TensorLike) -> None:
    """Write into the array; refused where a gradient would silently be wrong."""
    if is_grad_enabled() and (x.requires_grad or getattr(value, "requires_grad", False)):
        raise RuntimeError(
            "elements that gradients depend on cannot be set: use where, scatter or masked_fill, "
            "or no_grad() if no gradient is needed"
        )
    x.data[indexing.index_for(x.shape, index)] = operand_array(value, x)


def reflected(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, TensorLike], Tensor]:
    """The function with its inputs swapped: what `number - tensor` calls."""
    return lambda x, other: function(other, x)


SPECIAL = {
    "backward": engine.backward,
    "__getitem__": indexing.getitem,
    "__setitem__": setitem,
    "__floordiv__": arithmetic.floor_divide,
    "__rsub__": reflected(arithmetic.sub),
    "__rtruediv__": reflected(arithmetic.div),
    "__rpow__": reflected(arithmetic.pow),
}

for _module, _names in METHODS.items():
    for _name in _names.split():
        for _alias in (_name, *ALIASES.get(_name, "").split()):
            setattr(Tensor, _alias, getattr(_module, _name))
for _name, _function in SPECIAL.items():
    setattr(Tensor, _name, _function)
