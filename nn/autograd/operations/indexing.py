"""Operations that select some of the elements, or replace them."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import (
    array_of,
    axes_of,
    axis_of,
    host_array,
    length_of,
    lengths_of,
    mask_array,
    number_in,
    of_one_dtype,
    size_of,
    to,
)
from ringlet.nn.autograd.deferred import Deferred, Gradients
from ringlet.nn.autograd.operations.arithmetic import Where
from ringlet.nn.autograd.operations.embedding import RowSums
from ringlet.nn.autograd.promotion import fits
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray, chosen, to_host, xp

__all__ = [
    "chunk", "flip", "gather", "getitem", "index_fill", "index_select", "masked_fill",
    "masked_select", "narrow", "nonzero", "one_hot", "repeat_interleave", "roll", "scatter",
    "scatter_add", "select", "split", "tril", "triu", "unbind",
]  # fmt: skip


class IndexedGradient(Deferred):
    """A gradient that is zero except at an index."""

    def __init__(self, index: Any, part: Array) -> None:
        self._index, self._part = index, part

    def into(self, out: Array, add: bool) -> None:
        if not add:
            out.fill(0)
        if _is_unique(self._index):
            out[self._index] += self._part
        else:
            chosen().scatter_add(out, self._index, self._part)


def _is_unique(index: Any) -> bool:
    """Whether no element can be taken twice: the index has no arrays of integers."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(not isinstance(part, xp.ndarray) or part.dtype == bool for part in parts)


class GetItem(Operation):
    """Indexing as in NumPy: slices, integers, None, and arrays of integers or bools."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def __call__(self, *inputs: Tensor) -> Tensor:
        result = Operation.__call__(self, *inputs)
        for part in self.index if isinstance(self.index, tuple) else (self.index,):
            if isinstance(part, xp.ndarray):  # a copy
                return result
        result.join(inputs[0])
        return result

    def forward(self, x: Array) -> Array:
        self.shape, result = x.shape, x[self.index]
        if isinstance(result, xp.ndarray):
            return result
        return x[(*self.index, ...) if isinstance(self.index, tuple) else (self.index, ...)]

    def backward(self, grad: Array) -> Gradients:
        index = self.index
        if isinstance(index, xp.ndarray) and index.dtype.kind in "iu" and index.ndim:
            rows = grad.reshape(index.size, math.prod(self.shape[1:]))
            return (RowSums(to_host(index).reshape(-1) % self.shape[0], rows),)
        return (IndexedGradient(index, grad),)


class Scatter(Operation):
    """The elements with others written at an index, or added there."""

    def __init__(self, index: tuple[Array, ...], add: bool) -> None:
        self.index, self.add = index, add

    def forward(self, x: Array, source: Array) -> Array:
        result = x.copy()
        if self.add:
            chosen().scatter_add(result, self.index, source)
        else:
            result[self.index] = source
        return result

    def backward(self, grad: Array) -> Gradients:
        left = grad
        if not self.add:
            left = grad.copy()
            left[self.index] = 0
        return left, grad[self.index]


def getitem(x: Tensor, index: Any) -> Tensor:
    """Indexing as in NumPy; tensors of integers or bools may be indices too."""
    return GetItem(index_for(x.shape, index))(x)


def index_for(shape: tuple[int, ...], index: Any) -> Any:
    """The index with the backend's arrays in it, for an array of this shape.

    CuPy wraps indices that are out of range: on a device they are tried on the host first.
    """
    parts = tuple(_index_part(part) for part in (index if isinstance(index, tuple) else (index,)))
    if chosen().on_device and any(isinstance(part, np.ndarray | xp.ndarray) for part in parts):
        places = np.broadcast_to(np.False_, shape)  # takes one byte, whatever the shape
        places[tuple(to_host(p) if isinstance(p, xp.ndarray) else p for p in parts)]
        parts = tuple(asarray(p) if isinstance(p, np.ndarray) else p for p in parts)
    return parts if isinstance(index, tuple) else parts[0]


def _index_part(part: Any) -> Any:
    return np.asarray(part) if isinstance(part, list) else array_of(part)


def gather(x: Tensor, dim: int, index: Tensor | Array) -> Tensor:
    """The elements of axis `dim` that `index` selects: x[i][index[i][j]] and the like.

    `index` has as many axes as x, and none longer except `dim`.
    """
    index = array_of(index)
    if x.ndim and index.ndim:
        return GetItem(_mesh(x, dim, index))(x)
    x, given = _vector(x), index.reshape(-1)
    return GetItem(_mesh(x, dim, given))(x).reshape(index.shape)


def scatter(x: Tensor, dim: int, index: Tensor | Array, src: Tensor | float) -> Tensor:
    """x with `src` (of the index's shape, or a number) written where `index` says; see `gather`."""
    return _scattered(x, dim, index, src, add=False)


def scatter_add(x: Tensor, dim: int, index: Tensor | Array, src: Tensor) -> Tensor:
    """x with `src` (of the index's shape) added where `index` says; see `gather`."""
    return _scattered(x, dim, index, src, add=True)


def _scattered(
    x: Tensor, dim: int, index: Tensor | Array, src: Tensor | float, add: bool
) -> Tensor:
    index = array_of(index)
    if not isinstance(src, Tensor):
        src = Tensor(xp.full(index.shape, number_in(src, x.dtype), x.dtype))
    if src.shape != index.shape:
        raise ValueError(f"src of shape {src.shape} and index of shape {index.shape} differ")
    of_one_dtype("scatter", x, src)
    if x.ndim and index.ndim:
        return Scatter(_mesh(x, dim, index), add)(x, src)
    vector, given = _vector(x), index.reshape(-1)
    return Scatter(_mesh(vector, dim, given), add)(vector, src.reshape(-1)).reshape(x.shape)


def _vector(x: Tensor) -> Tensor:
    return x if x.ndim else x.reshape(1)


def _mesh(x: Tensor, dim: int, index: Tensor | Array) -> tuple[Array, ...]:
    """An index for each axis; that of `dim` is given."""
    given, axis = _whole_numbers(index), axis_of(dim, x.ndim)
    fits = given.ndim == x.ndim and all(
        own <= length or number == axis
        for number, (own, length) in enumerate(zip(given.shape, x.shape, strict=True))
    )
    if not fits:
        raise ValueError(f"index shape {given.shape} does not match axis {dim} of shape {x.shape}")
    wrong = given[(given < 0) | (given >= x.shape[axis])]
    if wrong.size:
        raise IndexError(f"index {wrong[0]} is out of range for axis {dim} of shape {x.shape}")
    mesh = [
        xp.arange(length).reshape((1,) * number + (-1,) + (1,) * (x.ndim - number - 1))
        for number, length in enumerate(given.shape)
    ]
    return (*mesh[:axis], asarray(given), *mesh[axis + 1 :])


def _whole_numbers(index: Any) -> Array:
    """An index's array; raises TypeError unless it is of integers: bools would be a mask."""
    array: Array = _index_part(index)
    if array.dtype.kind not in "iu":
        raise TypeError(f"an index is of integers, not {array.dtype}")
    return array


def index_select(x: Tensor, dim: int, index: Tensor | Array) -> Tensor:
    """The slices of an axis that `index` (one axis) selects."""
    x, shape = _vector(x), x.shape
    places, length = _whole_numbers(index), length_of(x, dim)
    wrong = places[(places < 0) | (places >= length)]
    if wrong.size or places.ndim > 1:
        what = wrong.flat[0] if wrong.size else f"of shape {places.shape}"
        raise IndexError(f"index {what} does not fit axis {dim} of shape {x.shape}")
    found = getitem(x, (*_before(x, dim), places.reshape(-1)))
    return found if shape else found.reshape(())


def narrow(x: Tensor, dim: int, start: int | Tensor, length: int) -> Tensor:
    """`length` slices of an axis from `start` on (a negative one counts from the end)."""
    size_of(length, "the length of a part")
    first, size = operator.index(array_of(start)), length_of(x, dim)
    first += size if first < 0 else 0
    if first < 0 or first + length > size:
        raise IndexError(f"{first}:{first + length} is out of range for axis {dim} of {x.shape}")
    return getitem(x, (*_before(x, dim), slice(first, first + length)))


def select(x: Tensor, dim: int, index: int) -> Tensor:
    """One slice of an axis, without the axis."""
    length_of(x, dim)
    return getitem(x, (*_before(x, dim), index))


def unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    """All slices of an axis."""
    return [select(x, dim, number) for number in range(length_of(x, dim))]


def flip(input: Tensor, *axes: Any, dims: Any = ()) -> Tensor:
    """The elements in reverse order along some axes: flip(0, 1), flip([0, 1]) or flip(dims=0)."""
    turned = axes_of((*lengths_of(axes), *lengths_of((dims,))), input.ndim)
    steps = (-1 if axis in turned else 1 for axis in range(input.ndim))
    return getitem(input, tuple(slice(None, None, step) for step in steps))


def roll(x: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """The elements shifted along axes (None: of all elements in a row); those that leave re-enter
    at the other end."""
    if dims is None:
        return roll(x.flatten(), shifts, 0).reshape(x.shape)
    steps, axes = ((n,) if isinstance(n, int) else tuple(n) for n in (shifts, dims))
    if len(steps) != len(axes):
        raise ValueError(f"shifts {steps} and dims {axes} are not of one length")
    for step, dim in zip(steps, axes, strict=True):
        length = length_of(x, dim)
        x = index_select(x, dim, (np.arange(length) - step) % (length or 1))
    return x


def repeat_interleave(x: Tensor, repeats: int | Tensor | Array, dim: int | None = None) -> Tensor:
    """Each slice of an axis (None: each element) several times in a row; `repeats` is the number
    of times, or one for each slice."""
    if dim is None:
        x, dim = x.flatten(), 0
    times = repeats if isinstance(repeats, int) else host_array(repeats)
    return index_select(x, dim, np.repeat(np.arange(length_of(x, dim)), times))


def split(x: Tensor, split_size: int | Sequence[int], dim: int = 0) -> list[Tensor]:
    """Pieces of `split_size` along an axis (the last may be shorter), or of the sizes given."""
    length = length_of(x, dim)
    if isinstance(split_size, int):
        size_of(split_size, "split_size", 1)
        sizes = [min(split_size, length - start) for start in range(0, length or 1, split_size)]
    else:
        sizes = [size_of(size, "a piece's size") for size in split_size]
    if sum(sizes) != length:
        raise ValueError(f"pieces of {sizes} do not add up to axis {dim} of shape {x.shape}")
    ends = np.cumsum(sizes).tolist()
    pairs = zip(ends, sizes, strict=True)
    return [getitem(x, (*_before(x, dim), slice(end - size, end))) for end, size in pairs]


def chunk(x: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    """At most `chunks` pieces of equal length along an axis; the last may be shorter."""
    size_of(chunks, "the number of chunks", 1)
    length = length_of(x, dim)
    return split(x, -(-length // chunks) if length else [0] * chunks, dim)


def _before(x: Tensor, dim: int) -> tuple[slice, ...]:
    return (slice(None),) * axis_of(dim, x.ndim)


def masked_fill(x: Tensor, mask: Tensor | Array, value: Tensor | float) -> Tensor:
    """The elements, with one number where `mask` (bool, broadcast) holds, in x's dtype."""
    if not isinstance(value, Tensor):
        value = Tensor(asarray(number_in(value, x.dtype), x.dtype))
    if value.ndim:
        raise ValueError(f"the value is one number, not of shape {value.shape}")
    if not fits(value.dtype, x.dtype):
        raise TypeError(f"a value of {value.dtype} does not fit into {x.dtype}")
    return Where(mask_array(mask))(to(value, x.dtype), x)


def masked_select(x: Tensor, mask: Tensor | Array) -> Tensor:
    """The elements where `mask` (bool, broadcast) holds, on one axis."""
    holds = mask_array(mask)
    shape = np.broadcast_shapes(x.shape, holds.shape)
    wide = x if x.shape == shape else x.expand(shape)
    return getitem(wide, xp.broadcast_to(holds, shape))


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """Zeros above the diagonal of the last two axes; `diagonal` 1 is the one above the main."""
    return masked_fill(x, ~xp.tri(length_of(x, -2), x.shape[-1], diagonal, dtype=bool), 0)


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """Zeros below the diagonal of the last two axes."""
    return masked_fill(x, xp.tri(length_of(x, -2), x.shape[-1], diagonal - 1, dtype=bool), 0)


def nonzero(input: Tensor | Array, *, as_tuple: bool = False) -> Any:
    """The indices (count, axes) of what is not 0; or a tuple of those of each axis (count,)."""
    array = array_of(input)
    places = xp.nonzero(array.reshape(array.shape or 1))
    if as_tuple:
        return tuple(Tensor(each) for each in places)
    return Tensor(xp.stack(places, 1)[:, : array.ndim])


def index_fill(x: Tensor, dim: int, index: Tensor | Array, value: float | Tensor) -> Tensor:
    """The elements, with `value` in the slices of an axis that `index` (one axis) selects."""
    chosen = np.zeros(length_of(x, dim), bool)
    chosen[host_array(index)] = True
    after = x.ndim - axis_of(dim, x.ndim) - 1
    return masked_fill(x, asarray(chosen.reshape(-1, *(1,) * after)), value)


def one_hot(ids: Tensor | Array, num_classes: int = -1) -> Tensor:
    """int64 (..., num_classes): 1 at each id, else 0; -1 for as many classes as the largest id
    needs. Raises IndexError naming a wrong id."""
    numbers = _whole_numbers(ids)
    if num_classes == -1 and numbers.size:
        num_classes = int(numbers.max()) + 1
    size_of(num_classes, "num_classes", 1)
    wrong = numbers[(numbers < 0) | (numbers >= num_classes)]
    if wrong.size:
        raise IndexError(f"id {wrong[0]} is out of range for {num_classes} classes")
    return Tensor((asarray(numbers)[..., None] == xp.arange(num_classes)).astype(np.int64))
