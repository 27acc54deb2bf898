"""Sums, means, variances, extrema and others over some or all axes."""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ringlet.nn.autograd.conversion import (
    along_axis,
    array_of,
    as_floats,
    axis_of,
    in_dtype,
    length_of,
    only_floats,
    selected,
    unary,
)
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.arithmetic import clamp, div, maximum, minimum
from ringlet.nn.autograd.operations.elementwise import abs
from ringlet.nn.autograd.operations.indexing import gather
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, xp

__all__ = [
    "Axes", "Found", "all", "amax", "amin", "any", "argmax", "argmin", "argsort",
    "logsumexp", "max", "mean", "min", "norm", "normalize",
    "prod", "sort", "std", "sum", "topk", "var",
]  # fmt: skip

Axes: TypeAlias = int | tuple[int, ...] | list[int] | None


class Found(NamedTuple):
    """Values along an axis, and their indices."""

    values: Tensor
    indices: Tensor


class _Reduction(Operation):
    """Over the axes `dim` (None: all elements)."""

    def __init__(self, dim: Axes = None, keepdim: bool = False) -> None:
        self.dim = _axes(dim)
        self.keepdim = keepdim

    def spread(self, reduced: Array, shape: tuple[int, ...]) -> Array:
        """A reduced array broadcast back to the original shape (a view)."""
        if not self.keepdim and self.dim is not None:
            reduced = xp.expand_dims(reduced, self.dim)
        return xp.broadcast_to(reduced, shape)


class Sum(_Reduction):
    """The sum over all elements, or over the axes `dim`."""

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return xp.asarray(x.sum(axis=self.dim, keepdims=self.keepdim, dtype=sum_dtype(x)))

    def backward(self, grad: Array) -> Gradients:
        return (self.spread(grad, self.shape),)


class Mean(_Reduction):
    """The mean over all elements, or over the axes `dim`."""

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        if x.size:
            return xp.asarray(x.mean(axis=self.dim, keepdims=self.keepdim))
        total = x.sum(axis=self.dim, keepdims=self.keepdim)
        return xp.asarray(xp.full_like(total, np.nan))  # NumPy warns

    def backward(self, grad: Array) -> Gradients:
        count = math.prod(self.shape) // (grad.size or 1) or 1
        return (self.spread(grad / in_dtype(count, grad), self.shape),)


class Var(_Reduction):
    """The variance; divides by the number of elements less `correction` (1 if unbiased)."""

    def __init__(
        self,
        dim: Axes = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: int | None = None,
    ) -> None:
        unbiased = dim if isinstance(dim, bool) else unbiased  # x.var(False), as in PyTorch
        super().__init__(None if isinstance(dim, bool) else dim, keepdim)
        self.correction = int(unbiased) if correction is None else correction

    def forward(self, x: Array) -> Array:
        self.centred = x - x.mean(axis=self.dim, keepdims=True) if x.size else x
        total = xp.square(self.centred).sum(axis=self.dim, keepdims=self.keepdim)
        left = x.size // (total.size or 1) - self.correction
        self.divisor = in_dtype(left if left > 0 else 0, x)
        with np.errstate(divide="ignore", invalid="ignore"):  # of one element it is NaN
            return xp.asarray(total / self.divisor)

    def backward(self, grad: Array) -> Gradients:
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = self.centred * (2 / self.divisor)
        return (self.spread(grad, self.centred.shape) * slope,)


class Std(Var):
    """The standard deviation; the slope of equal elements is 0."""

    def forward(self, x: Array) -> Array:
        self.y = xp.asarray(xp.sqrt(super().forward(x)))
        return self.y

    def backward(self, grad: Array) -> Gradients:
        return super().backward(_ratio(grad, self.y + self.y))


class Extreme(_Reduction):
    """The maximum or minimum; equal elements share the gradient."""

    def __init__(self, dim: Axes, keepdim: bool, largest: bool) -> None:
        super().__init__(dim, keepdim)
        self.largest = largest

    def forward(self, x: Array) -> Array:
        find = xp.max if self.largest else xp.min
        result = xp.asarray(find(x, axis=self.dim, keepdims=self.keepdim))
        self.hits = (x == self.spread(result, x.shape)) | (x != x)  # NaN is the extreme
        return result

    def backward(self, grad: Array) -> Gradients:
        count = self.hits.sum(axis=self.dim, keepdims=self.keepdim, dtype=grad.dtype)
        share = self.spread(grad / count, self.hits.shape)
        return (selected(share, self.hits),)


class LogSumExp(_Reduction):
    """log(sum(exp(x))) over all elements or some axes, without overflow."""

    def forward(self, x: Array) -> Array:
        self.x = x
        largest = self.x.max(axis=self.dim, keepdims=True) if x.size else xp.zeros((), x.dtype)
        largest[~xp.isfinite(largest)] = 0
        total = xp.exp(self.x - largest).sum(axis=self.dim, keepdims=True)
        with np.errstate(divide="ignore"):  # nothing adds up to -inf
            self.y = xp.log(total) + largest
        return self.y if self.keepdim else xp.asarray(self.y.squeeze(self.dim))

    def backward(self, grad: Array) -> Gradients:
        y = xp.where(self.y == -np.inf, in_dtype(0, grad), self.y)  # -inf less -inf is NaN
        return (self.spread(grad, self.x.shape) * xp.exp(self.x - y),)


class Norm(_Reduction):
    """sum(|x|^p)^(1/p); the slope of zeros is 0."""

    def __init__(self, dim: Axes = None, keepdim: bool = False, p: float = 2) -> None:
        super().__init__(dim, keepdim)
        self.p = p

    def forward(self, x: Array) -> Array:
        self.x = x
        powers = xp.square(x) if self.p == 2 else xp.abs(x) ** in_dtype(self.p, x)
        total = xp.asarray(powers.sum(axis=self.dim, keepdims=self.keepdim))
        self.y = xp.sqrt(total) if self.p == 2 else total ** in_dtype(1 / self.p, x)
        return xp.asarray(self.y)

    def backward(self, grad: Array) -> Gradients:
        if self.p == 2:
            return (self.spread(_ratio(grad, self.y), self.x.shape) * self.x,)
        size, y = xp.abs(self.x), self.spread(self.y, self.x.shape)
        slope = _ratio(size, y) ** in_dtype(self.p - 1, y)  # infinite at 0 if p < 1
        return (selected(self.spread(grad, self.x.shape) * xp.sign(self.x) * slope, self.x != 0),)


class Prod(_Reduction):
    """The product."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return xp.asarray(self.x.prod(axis=self.dim, keepdims=self.keepdim, dtype=sum_dtype(x)))

    def backward(self, grad: Array) -> Gradients:
        """An element's slope is the product of those before and after it, which may be zeros."""
        axis = self.dim if isinstance(self.dim, int) else 0
        x = self.x.reshape(-1) if self.dim is None else xp.moveaxis(self.x, axis, -1)
        ones = xp.ones_like(x[..., :1])
        before = xp.concatenate([ones, x[..., :-1]], -1).cumprod(-1)
        after = xp.concatenate([x[..., 1:], ones], -1)[..., ::-1].cumprod(-1)[..., ::-1]
        slope = before * after
        slope = slope.reshape(self.x.shape) if self.dim is None else xp.moveaxis(slope, -1, axis)
        return (self.spread(grad, self.x.shape) * slope,)


sum = unary(Sum, along=True)
mean = unary(Mean, only_floats, along=True)
var = unary(Var, only_floats, along=True)
std = unary(Std, only_floats, along=True)
logsumexp = unary(LogSumExp, as_floats, along=True)
_extreme = unary(Extreme, along=True)
_norm = unary(Norm, along=True)
_prod = unary(Prod, along=True)


@along_axis
def amax(input: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The maximum over all elements or some axes; equal maxima share the gradient."""
    return _extreme(input, dim, keepdim, largest=True)


@along_axis
def amin(input: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The minimum over all elements or some axes; equal minima share the gradient."""
    return _extreme(input, dim, keepdim, largest=False)


@along_axis
def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The maximum of all; with an axis, (values, indices); with another tensor, `maximum`."""
    if isinstance(dim, Tensor):
        return maximum(input, dim)
    return amax(input) if dim is None else _along(input, argmax(input, dim, True), dim, keepdim)


@along_axis
def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The minimum of all; with an axis, (values, indices); with another tensor, `minimum`."""
    if isinstance(dim, Tensor):
        return minimum(input, dim)
    return amin(input) if dim is None else _along(input, argmin(input, dim, True), dim, keepdim)


@along_axis
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the (first) maximum; it has no gradient."""
    return _position("argmax", input, dim, keepdim)


@along_axis
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the (first) minimum; it has no gradient."""
    return _position("argmin", input, dim, keepdim)


@along_axis
def sort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> Found:
    """The elements sorted along an axis (always stable), and their indices."""
    order = argsort(input, dim, descending)
    return Found(gather(input, dim, order), order)


def argsort(x: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> Tensor:
    """The indices that sort along an axis (always stable)."""
    if not x.ndim:
        return Tensor(xp.full((), axis_of(dim, 0)))
    if not descending:
        return Tensor(xp.argsort(x.data, axis=dim, kind="stable"))
    backwards = xp.argsort(xp.flip(x.data, dim), axis=dim, kind="stable")
    return Tensor(x.shape[dim] - 1 - xp.flip(backwards, dim))


@along_axis
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Found:
    """The k largest (or smallest) along an axis, always in order, and their indices."""
    if not input.ndim:
        return sort(input, dim) if 0 <= k <= 1 else topk(input.reshape(1), k, dim)
    if not 0 <= k <= length_of(input, dim):
        raise ValueError(f"k is {k}; axis {dim} of shape {input.shape} has fewer elements")
    order = array_of(argsort(input, dim, largest))
    index = Tensor(xp.take(order, xp.arange(k), axis=dim))
    return Found(gather(input, dim, index), index)


@along_axis
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The product of all elements, or along an axis."""
    if isinstance(dim, tuple | list):
        raise TypeError(f"prod takes one axis, not {dim}")
    return _prod(input, dim, keepdim)


@along_axis
def norm(input: Tensor, p: float | str = 2, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """sum(|x|^p)^(1/p) of all elements, or over some axes.

    "fro" is 2; p = 0 counts what is not 0, and infinities give the largest or smallest |x|.
    """
    only_floats("norm", input)
    if isinstance(p, str) and p != "fro":
        raise ValueError(f"p is {p!r}; it must be a number or 'fro'")
    p = 2.0 if p == "fro" else float(p)
    if math.isinf(p):
        return (amax if p > 0 else amin)(abs(input), dim, keepdim)
    if p == 0:
        return sum(Tensor((input.data != 0).astype(input.dtype)), dim, keepdim)
    return _norm(input, dim, keepdim, p)


def normalize(input: Tensor, p: float = 2.0, dim: Axes = 1, eps: float = 1e-12) -> Tensor:
    """Divided by the norm over some axes, or by `eps` if that is larger."""
    return div(input, clamp(norm(input, p, dim, True), min=eps))


@along_axis
def all(input: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """Whether all are true; along no axes () each element is, unlike a sum."""
    axis = tuple(dim) if isinstance(dim, list) else dim
    return Tensor(xp.asarray(xp.all(input.data, axis=axis, keepdims=keepdim)))


@along_axis
def any(input: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """Whether any is true; see `all`."""
    axis = tuple(dim) if isinstance(dim, list) else dim
    return Tensor(xp.asarray(xp.any(input.data, axis=axis, keepdims=keepdim)))


def _position(name: str, x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    data = x.data if x.ndim else x.data.reshape(1)
    found = xp.asarray(getattr(xp, name)(data, axis=dim, keepdims=keepdim))
    return Tensor(found if x.ndim else found.reshape(()))


def _along(x: Tensor, index: Tensor, dim: int, keepdim: bool) -> Found:
    values = gather(x, dim, index)
    return Found(values, index) if keepdim else Found(values.squeeze(dim), index.squeeze(dim))


def _ratio(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0."""
    some = b != 0
    return xp.where(some, a / xp.where(some, b, in_dtype(1, b)), in_dtype(0, a))


def _axes(dim: Axes) -> int | tuple[int, ...] | None:
    """No axes are all of them, as in PyTorch."""
    return tuple(dim) or None if isinstance(dim, list | tuple) else dim


def sum_dtype(x: Array) -> np.dtype[Any]:
    """The dtype of sums and products: int64 for integers and bools, as in PyTorch."""
    return np.dtype(np.int64) if x.dtype.kind in "biu" else x.dtype
