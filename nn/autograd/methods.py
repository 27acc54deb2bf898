"""The operations that are methods and operators of tensors.

A method is the operation of that name, with the tensor as its first argument: see its docstring.
"""

from typing import Any

import numpy as np

from ringlet.nn.autograd import operations as ops
from ringlet.nn.autograd.operations.indexing import index_for
from ringlet.nn.autograd.tensor import Operand, Tensor, is_grad_enabled, operand_array


class Methods:
    """What `Tensor` gets; a class so that type checkers and editors know it."""

    __slots__ = ()

    # -- operators ----------------------------------------------------------------------------

    __add__ = ops.add
    __sub__ = ops.sub
    __mul__ = ops.mul
    __truediv__ = ops.div
    __floordiv__ = ops.floor_divide
    __mod__ = ops.remainder
    __pow__ = ops.pow
    __matmul__ = ops.matmul
    __neg__ = ops.neg
    __abs__ = ops.abs
    __getitem__ = ops.getitem
    __radd__ = ops.add
    __rmul__ = ops.mul

    # Comparisons make plain tensors of bool; equality does too, so tensors hash by identity.
    __eq__ = ops.eq  # type: ignore[assignment]
    __ne__ = ops.ne  # type: ignore[assignment]
    __lt__ = ops.lt
    __le__ = ops.le
    __gt__ = ops.gt
    __ge__ = ops.ge
    __and__ = ops.logical_and
    __or__ = ops.logical_or
    __xor__ = ops.logical_xor
    __invert__ = ops.logical_not
    __hash__ = object.__hash__

    def __rsub__(self: Any, other: Operand) -> Tensor:
        return ops.sub(other, self)

    def __rtruediv__(self: Any, other: Operand) -> Tensor:
        return ops.div(other, self)

    def __rpow__(self: Any, other: Operand) -> Tensor:
        return ops.pow(other, self)

    def __setitem__(self: Any, index: Any, value: Operand) -> None:
        """Write into the array. Refused where a gradient would go wrong without a word."""
        if is_grad_enabled() and (self.requires_grad or getattr(value, "requires_grad", False)):
            raise RuntimeError(
                "elements that gradients depend on cannot be set: use where, scatter or "
                "masked_fill, or no_grad() if no gradient is wanted"
            )
        self.data[index_for(self.shape, index)] = operand_array(value, self)

    # -- each element -------------------------------------------------------------------------

    add, sub, mul, div, pow, neg = ops.add, ops.sub, ops.mul, ops.div, ops.pow, ops.neg
    exp, expm1, log, log1p, log2, log10 = (
        ops.exp,
        ops.expm1,
        ops.log,
        ops.log1p,
        ops.log2,
        ops.log10,
    )
    sqrt, rsqrt, square, reciprocal = ops.sqrt, ops.rsqrt, ops.square, ops.reciprocal
    sin, cos, tanh, sigmoid, erf, relu = ops.sin, ops.cos, ops.tanh, ops.sigmoid, ops.erf, ops.relu
    abs, sign, floor, ceil, round = ops.abs, ops.sign, ops.floor, ops.ceil, ops.round
    clamp, clip, remainder = ops.clamp, ops.clamp, ops.remainder
    maximum, minimum = ops.maximum, ops.minimum
    eq, ne, lt, le, gt, ge = ops.eq, ops.ne, ops.lt, ops.le, ops.gt, ops.ge
    logical_and, logical_or, logical_xor = ops.logical_and, ops.logical_or, ops.logical_xor
    logical_not, isnan, isinf, isfinite = ops.logical_not, ops.isnan, ops.isinf, ops.isfinite
    isclose, allclose, equal = ops.isclose, ops.allclose, ops.equal

    # -- over axes ----------------------------------------------------------------------------

    sum, mean, var, std, prod, norm = ops.sum, ops.mean, ops.var, ops.std, ops.prod, ops.norm
    max, min, amax, amin, argmax, argmin = (
        ops.max,
        ops.min,
        ops.amax,
        ops.amin,
        ops.argmax,
        ops.argmin,
    )
    cumsum, logsumexp, softmax, log_softmax = (
        ops.cumsum,
        ops.logsumexp,
        ops.softmax,
        ops.log_softmax,
    )
    sort, argsort, topk, all, any = ops.sort, ops.argsort, ops.topk, ops.all, ops.any

    # -- products -----------------------------------------------------------------------------

    matmul, mm, bmm, dot = ops.matmul, ops.mm, ops.bmm, ops.dot

    # -- shapes and places --------------------------------------------------------------------

    reshape, view, flatten = ops.reshape, ops.reshape, ops.flatten
    transpose, swapaxes, permute, movedim, t = (
        ops.transpose,
        ops.transpose,
        ops.permute,
        ops.movedim,
        ops.t,
    )
    squeeze, unsqueeze, expand, repeat = ops.squeeze, ops.unsqueeze, ops.expand, ops.repeat
    repeat_interleave, flip, roll = ops.repeat_interleave, ops.flip, ops.roll
    split, chunk, unbind, narrow, select = ops.split, ops.chunk, ops.unbind, ops.narrow, ops.select
    gather, scatter, scatter_add = ops.gather, ops.scatter, ops.scatter_add
    index_select, masked_select, masked_fill = ops.index_select, ops.masked_select, ops.masked_fill
    tril, triu, clone, contiguous, to = ops.tril, ops.triu, ops.clone, ops.contiguous, ops.to

    def float(self: Any) -> Tensor:
        """In float32."""
        return ops.to(self, np.float32)

    def double(self: Any) -> Tensor:
        """In float64."""
        return ops.to(self, np.float64)

    def half(self: Any) -> Tensor:
        """In float16."""
        return ops.to(self, np.float16)

    def expand_as(self: Any, other: Tensor) -> Tensor:
        """Broadcast to another's shape."""
        return ops.expand(self, other.shape)

    def view_as(self: Any, other: Tensor) -> Tensor:
        """In another's shape."""
        return ops.reshape(self, other.shape)

    @property
    def T(self: Any) -> Tensor:
        """The axes backwards."""
        return ops.permute(self, *range(self.ndim)[::-1])

    @property
    def mT(self: Any) -> Tensor:
        """The last two axes exchanged."""
        return ops.transpose(self, -2, -1)


for _name, _method in vars(Methods).items():
    if _name not in ("__module__", "__slots__", "__doc__"):
        setattr(Tensor, _name, _method)
