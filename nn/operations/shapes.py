"""Operations that move elements and compute nothing. Results are views where NumPy has views."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn.tensor import Array, Gradient, Operation, Tensor, array_of


class Reshape(Operation):
    """The same elements in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.target = shape

    def forward(self, *arrays: Array) -> Array:
        self.shape = arrays[0].shape
        return arrays[0].reshape(self.target)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad.reshape(self.shape),)


class Permute(Operation):
    """The axes in another order."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        self.dims = dims

    def forward(self, *arrays: Array) -> Array:
        return arrays[0].transpose(self.dims)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        axes = [dim % len(self.dims) for dim in self.dims]
        return (grad.transpose(np.argsort(axes)),)


class Expand(Operation):
    """Broadcast to a shape; the engine sums the gradient back."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.target = shape

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        extra = len(self.target) - x.ndim
        shape = tuple(
            x.shape[axis - extra] if length == -1 else length
            for axis, length in enumerate(self.target)
        )
        return np.broadcast_to(x, shape)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad,)


class GetItem(Operation):
    """Indexing as in NumPy: slices, numbers, None, and arrays of numbers or bools."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        self.like = x
        return np.asarray(x[self.index])

    def backward(self, grad: Array) -> Sequence[Gradient]:
        result = np.zeros(self.like.shape, self.like.dtype)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if any(isinstance(part, np.ndarray | list) for part in parts):
            np.add.at(result, self.index, grad)  # the same element may be taken twice
        else:
            result[self.index] = grad
        return (result,)


class Cat(Operation):
    """Tensors one behind the other along an axis."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, *arrays: Array) -> Array:
        self.bounds = np.cumsum([array.shape[self.dim] for array in arrays])[:-1]
        return np.concatenate(arrays, axis=self.dim)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return np.split(grad, self.bounds, axis=self.dim)


class Stack(Operation):
    """Tensors of one shape along a new axis."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, *arrays: Array) -> Array:
        return np.stack(arrays, axis=self.dim)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return list(np.moveaxis(grad, self.dim, 0))


class MaskedFill(Operation):
    """A number where the mask holds."""

    def __init__(self, mask: Array, value: float) -> None:
        self.mask, self.value = mask, value

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        return np.where(self.mask, np.asarray(self.value, x.dtype), x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (np.where(self.mask, np.asarray(0, grad.dtype), grad),)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same elements in another shape; one length may be -1."""
    return Reshape(shape)(x)


def permute(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The axes in another order."""
    return Permute(dims)(x)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged."""
    dims = list(range(x.ndim))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return Permute(tuple(dims))(x)


def expand(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Broadcast to the shape; -1 keeps an axis."""
    return Expand(shape)(x)


def squeeze(x: Tensor, dim: int) -> Tensor:
    """Without the axis `dim`, which must have length 1."""
    if x.shape[dim] != 1:
        raise ValueError(f"axis {dim} of shape {x.shape} has not length 1")
    shape = list(x.shape)
    del shape[dim]
    return Reshape(tuple(shape))(x)


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """With a new axis of length 1 at `dim`."""
    shape = list(x.shape)
    shape.insert(dim if dim >= 0 else dim + x.ndim + 1, 1)
    return Reshape(tuple(shape))(x)


def getitem(x: Tensor, index: Any) -> Tensor:
    """Indexing as in NumPy; tensors of numbers or bools may be indices too."""
    if isinstance(index, tuple):
        return GetItem(tuple(array_of(part) for part in index))(x)
    return GetItem(array_of(index))(x)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one behind the other along an axis."""
    return Cat(dim)(*tensors)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new axis."""
    return Stack(dim)(*tensors)


def split(x: Tensor, split_size: int, dim: int = 0) -> list[Tensor]:
    """Pieces of `split_size` along an axis; the last may be shorter."""
    before = (slice(None),) * (dim % x.ndim)
    return [
        getitem(x, (*before, slice(start, start + split_size)))
        for start in range(0, x.shape[dim], split_size)
    ]


def masked_fill(x: Tensor, mask: Tensor | Array, value: float) -> Tensor:
    """The elements, with `value` where `mask` (bool, broadcast) holds."""
    return MaskedFill(np.asarray(array_of(mask), bool), value)(x)
