"""Operations that rearrange elements. Results are views where NumPy has views."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import (
    axes_of,
    axis_of,
    lengths_of,
    number_in,
    promoted,
    size_of,
    unary,
)
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.tensor import Operation, Tensor, View
from ringlet.nn.backend import Array, xp

__all__ = [
    "cat", "clone", "contiguous", "expand", "expand_as", "flatten", "movedim", "pad", "permute",
    "repeat", "reshape", "squeeze", "stack", "t", "transpose", "unsqueeze", "view_as",
]  # fmt: skip


class Reshape(View):
    """The same elements in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.target = shape

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(self.target)

    def backward(self, grad: Array) -> Gradients:
        return (grad.reshape(self.shape),)


class Permute(View):
    """The axes in another order."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        self.dims = dims

    def forward(self, x: Array) -> Array:
        return x.transpose(self.dims)

    def backward(self, grad: Array) -> Gradients:
        axes = [dim % len(self.dims) for dim in self.dims]
        return (grad.transpose(np.argsort(axes).tolist()),)


class Expand(View):
    """Broadcast to a shape; the engine sums the gradient back."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.target = shape

    def forward(self, x: Array) -> Array:
        extra = len(self.target) - x.ndim
        if -1 in self.target[:extra]:
            raise ValueError(
                f"-1 in {self.target} keeps an axis that shape {x.shape} does not have"
            )
        shape = tuple(
            x.shape[axis - extra] if length == -1 else length
            for axis, length in enumerate(self.target)
        )
        try:
            return xp.broadcast_to(x, shape)
        except ValueError as error:
            raise ValueError(f"shape {x.shape} cannot be expanded to {self.target}") from error

    def backward(self, grad: Array) -> Gradients:
        return (grad,)


class Cat(Operation):
    """Tensors joined along an axis."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, *arrays: Array) -> Array:
        result = xp.concatenate(arrays, axis=self.dim)
        self.bounds = np.cumsum([0, *(array.shape[self.dim] for array in arrays)]).tolist()
        return result

    def backward(self, grad: Array) -> Gradients:
        before = (slice(None),) * (self.dim % grad.ndim)
        return [grad[(*before, slice(*ends))] for ends in pairwise(self.bounds)]


class Repeat(Operation):
    """Copies side by side along each axis."""

    def __init__(self, counts: tuple[int, ...]) -> None:
        self.counts = counts

    def forward(self, x: Array) -> Array:
        self.shape = (1,) * (len(self.counts) - x.ndim) + x.shape
        return xp.tile(x, self.counts)

    def backward(self, grad: Array) -> Gradients:
        pairs = zip(self.counts, self.shape, strict=True)
        parts = grad.reshape([length for pair in pairs for length in pair])
        return (parts.sum(axis=tuple(range(0, parts.ndim, 2))),)


class Pad(Operation):
    """The elements with a number around them."""

    def __init__(self, widths: list[tuple[int, int]], value: float) -> None:
        self.widths, self.value = widths, value

    def forward(self, x: Array) -> Array:
        self.inside = tuple(
            slice(before, before + length)
            for (before, _), length in zip(self.widths, x.shape, strict=True)
        )
        return xp.pad(x, self.widths, constant_values=self.value)

    def backward(self, grad: Array) -> Gradients:
        return (grad[self.inside],)


class Clone(Operation):
    """A copy."""

    def forward(self, x: Array) -> Array:
        return x.copy()

    def backward(self, grad: Array) -> Gradients:
        return (grad,)


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape; one length may be -1."""
    lengths = lengths_of(shape)
    for length in lengths:
        size_of(length, "a length", -1)
    return Reshape(lengths)(x)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from start_dim to end_dim as one."""
    start, stop = axis_of(start_dim, x.ndim), axis_of(end_dim, x.ndim) + 1
    if start >= stop:
        raise ValueError(f"start_dim {start_dim} comes after end_dim {end_dim} in shape {x.shape}")
    return reshape(x, *x.shape[:start], math.prod(x.shape[start:stop]), *x.shape[stop:])


def permute(x: Tensor, *dims: Any) -> Tensor:
    """The axes in another order."""
    return Permute(lengths_of(dims))(x)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes swapped."""
    dims = list(range(x.ndim))
    try:
        dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    except IndexError:
        axis_of(dim0, x.ndim), axis_of(dim1, x.ndim)
        return x  # of no axes
    return Permute(tuple(dims))(x)


def t(x: Tensor) -> Tensor:
    """A matrix transposed."""
    if x.ndim > 2:
        raise ValueError(f"t() needs a matrix; the tensor has shape {x.shape}")
    return x if x.ndim < 2 else transpose(x, 0, 1)


def movedim(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Axes moved to other positions; the rest keep their order."""
    given = ((n,) if isinstance(n, int) else n for n in (source, destination))
    axes, places = ([axis_of(dim, x.ndim) for dim in dims] for dims in given)
    if len(axes) != len(places) or len(set(axes)) < len(axes) or len(set(places)) < len(places):
        raise ValueError(f"axes {source} cannot move to {destination}: each must move once")
    rest = iter([dim for dim in range(x.ndim) if dim not in axes])
    moved = dict(zip(places, axes, strict=True))
    dims = tuple(moved[n] if n in moved else next(rest) for n in range(x.ndim))
    return Permute(dims)(x) if dims else x


def expand(x: Tensor, *shape: Any) -> Tensor:
    """Broadcast to the shape; -1 keeps an axis."""
    return Expand(lengths_of(shape))(x)


def squeeze(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Without the axes `dim` (None: all) that have length 1."""
    dims = axes_of(range(x.ndim) if dim is None else dim, x.ndim)
    gone = {axis for axis in dims if x.shape[axis : axis + 1] == (1,)}
    return Reshape(tuple(n for axis, n in enumerate(x.shape) if axis not in gone))(x)


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """With a new axis of length 1 at `dim`."""
    shape = list(x.shape)
    shape.insert(axis_of(dim, x.ndim + 1), 1)
    return Reshape(tuple(shape))(x)


def repeat(x: Tensor, *counts: Any) -> Tensor:
    """Copies side by side along each axis; more counts than axes add axes in front."""
    lengths = lengths_of(counts)
    if len(lengths) < x.ndim:
        raise ValueError(f"{len(lengths)} counts are too few for the axes of shape {x.shape}")
    return Repeat(lengths)(x)


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """With `value` (0) around: (before, after) of the last axis, then of the one before it, ...

    Negative widths cut off.
    """
    if mode != "constant":
        raise ValueError(f"mode is {mode!r}; only 'constant' is supported")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"{len(pad)} widths of padding do not match shape {input.shape}")
    widths = [(pad[place], pad[place + 1]) for place in range(0, len(pad), 2)]
    widths = (widths + [(0, 0)] * (input.ndim - len(widths)))[::-1]
    if min(pad, default=0) < 0:
        for (before, after), length in zip(widths, input.shape, strict=True):
            size_of(length + min(before, 0) + min(after, 0), f"what pad leaves of {length}")
        ends = [(max(-before, 0), min(after, 0) or None) for before, after in widths]
        input = input[tuple(slice(*each) for each in ends)]
        widths = [(max(before, 0), max(after, 0)) for before, after in widths]
    return Pad(widths, number_in(value or 0, input.dtype))(input)


def cat(tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None) -> Tensor:
    """Tensors joined along an axis, in their common dtype. Tensors of shape (0,) fit anywhere."""
    if not tensors:
        raise ValueError("cat and stack take at least one tensor")
    dim = dim if axis is None else axis
    dtype = tensors[0].dtype
    for x in tensors:
        if not isinstance(x, Tensor) or x.data.dtype is not dtype or x.data.shape == (0,):
            tensors = promoted(*tensors)
            tensors = [each for each in tensors if each.shape != (0,)] or tensors[:1]
            break
    return Cat(dim)(*tensors)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new axis."""
    return cat([unsqueeze(x, dim) for x in tensors], dim)


clone = unary(Clone)


def contiguous(x: Tensor) -> Tensor:
    """The tensor itself if it is contiguous, else a copy."""
    return x if x.data.flags.c_contiguous else clone(x)


def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """Broadcast to another tensor's shape."""
    return expand(x, other.shape)


def view_as(x: Tensor, other: Tensor) -> Tensor:
    """In another tensor's shape."""
    return reshape(x, other.shape)
