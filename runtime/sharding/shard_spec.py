"""Which shard of a logical parameter a rank holds, so that any mesh can read what another wrote."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ringlet.nn.autograd.tensor import Array
from ringlet.nn.files import short
from ringlet.nn.safetensors import MOST_DIMENSIONS


class AxisSlice(NamedTuple):
    """Indices `start` to `stop` of an axis; the shard has room for `length`, the rest is zeros."""

    axis: int
    start: int
    stop: int
    length: int


@dataclass(frozen=True)
class ShardSpec:
    """A shard of a parameter of shape `shape`.

    `view` has the same elements in a shape in which the sharded axes are whole axes: the packed
    weight (3C, C) of queries, keys and values is (3, C, C) there, and its heads lie on axis 1.
    """

    shape: tuple[int, ...]
    view: tuple[int, ...]
    slices: tuple[AxisSlice, ...] = ()

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> "ShardSpec":
        """All of it."""
        return cls(shape, shape)

    def shard(self, axis: int, index: int, count: int, parts: int = 1) -> "ShardSpec":
        """One of `count` equal parts along an axis, or along each of its `parts` packed parts.

        The axis need not divide evenly: the last part may be shorter, and is padded.
        """
        view = self.view
        if parts > 1:
            assert not self.slices, "expose packed parts first"
            view = (*view[:axis], parts, view[axis] // parts, *view[axis + 1 :])
            axis += 1
        length = -(-view[axis] // count)
        start = min(index * length, view[axis])
        stop = min(start + length, view[axis])
        return ShardSpec(self.shape, view, (*self.slices, AxisSlice(axis, start, stop, length)))

    @property
    def local_view(self) -> tuple[int, ...]:
        """The shard's shape in the view, padding included."""
        return self._shape({part.axis: part.length for part in self.slices})

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shard's shape, with packed parts joined again."""
        lengths = self.local_view
        while len(lengths) > len(self.shape):
            lengths = (lengths[0] * lengths[1], *lengths[2:])
        return lengths

    @property
    def size(self) -> int:
        """Elements of the shard, padding included."""
        return math.prod(self.local_view)

    @property
    def kept(self) -> int:
        """Elements of the shard without padding."""
        return math.prod(self._shape({part.axis: part.stop - part.start for part in self.slices}))

    def _shape(self, lengths: Mapping[int, int]) -> tuple[int, ...]:
        """The view's shape with other lengths of some axes."""
        return tuple(lengths.get(axis, length) for axis, length in enumerate(self.view))

    def take(self, whole: Array) -> Array:
        """This shard of the whole parameter, as a new array of `local_shape`."""
        return self.part(whole, 0, self.size).reshape(self.local_shape)

    def part(self, whole: Array, start: int, stop: int) -> Array:
        """Elements `start` to `stop` of this shard, in a row, as a new array; of the whole
        parameter no more is read than the rows that hold them."""
        if not self.view:
            return whole.reshape(-1)[start:stop].copy()
        lead, *rest = self.local_view
        row = max(1, math.prod(rest))
        first, last = start // row, -(-stop // row)
        inside, outside = self._places()
        here, there = inside[0].indices(lead), outside[0].indices(self.view[0])
        kept = slice(0, max(0, min(last, here[1]) - first))
        rows = np.zeros((last - first, *rest), whole.dtype)
        source = slice(there[0] + first, there[0] + first + kept.stop)
        rows[kept, *inside[1:]] = whole.reshape(self.view)[source, *outside[1:]]
        return rows.reshape(-1)[start - first * row : stop - first * row]

    def put(self, local: Array, whole: Array) -> None:
        """Write this shard into the whole parameter (C-contiguous)."""
        inside, outside = self._places()
        whole.reshape(self.view)[outside] = local.reshape(self.local_view)[inside]

    def _places(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where the elements are in the shard's view, and in the whole one."""
        inside = [slice(None)] * len(self.view)
        outside = list(inside)
        for part in self.slices:
            inside[part.axis] = slice(0, part.stop - part.start)
            outside[part.axis] = slice(part.start, part.stop)
        return tuple(inside), tuple(outside)

    def to_json(self) -> dict[str, Any]:
        """As numbers and lists."""
        return {"view": list(self.view), "cuts": list(map(list, self.slices))}

    @classmethod
    def from_json(cls, shape: Sequence[int], entry: Mapping[str, Any]) -> "ShardSpec":
        """What `to_json` gave; raises ValueError, TypeError or KeyError for anything else."""
        view, slices = tuple(entry["view"]), tuple(AxisSlice(*cut) for cut in entry["cuts"])
        if (
            len(view) > MOST_DIMENSIONS
            or not all(type(n) is int and 0 <= n < 1 << 63 for n in view)
            or math.prod(view) != math.prod(shape)
        ):
            raise ValueError(f"{short(view)} is not a view of {tuple(shape)}")
        for part in slices:
            if (
                not all(type(n) is int for n in part)
                or not 0 <= part.axis < len(view)
                or not 0 <= part.start <= part.stop <= view[part.axis]
                or not part.stop - part.start <= part.length <= view[part.axis]
            ):
                raise ValueError(f"{short(part)} does not fit {view}")
        if len({part.axis for part in slices}) < len(slices):
            raise ValueError(f"{short(slices)} cuts an axis twice")
        return cls(tuple(shape), view, slices)
