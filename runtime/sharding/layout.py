"""Which part of a logical parameter a rank holds, so that any mesh can read what another wrote."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Cut:
    """Places `start` to `stop` of an axis; here they take `length` places, the rest are zeros."""

    axis: int
    start: int
    stop: int
    length: int


@dataclass(frozen=True)
class Layout:
    """A part of a parameter of shape `shape`.

    `view` is the same elements in a shape in which the cut axes are whole axes: the packed
    weight (3C, C) of queries, keys and values is (3, C, C) there, and its heads lie on axis 1.
    """

    shape: tuple[int, ...]
    view: tuple[int, ...]
    cuts: tuple[Cut, ...] = ()

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> "Layout":
        """All of it."""
        return cls(shape, shape)

    def cut(self, axis: int, index: int, count: int, parts: int = 1) -> "Layout":
        """One of `count` equal parts along an axis; with `parts`, of each of its parts.

        The axis need not divide evenly: the last rank's part may be shorter, and is padded.
        """
        view = self.view
        if parts > 1:
            assert not self.cuts, "expose packed parts first"
            view = (*view[:axis], parts, view[axis] // parts, *view[axis + 1 :])
            axis += 1
        length = -(-view[axis] // count)
        start = min(index * length, view[axis])
        stop = min(start + length, view[axis])
        return Layout(self.shape, view, (*self.cuts, Cut(axis, start, stop, length)))

    @property
    def local_view(self) -> tuple[int, ...]:
        """The part's shape in the view, padding included."""
        lengths = list(self.view)
        for cut in self.cuts:
            lengths[cut.axis] = cut.length
        return tuple(lengths)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The part's shape, with packed parts folded again."""
        lengths = self.local_view
        while len(lengths) > len(self.shape):
            lengths = (lengths[0] * lengths[1], *lengths[2:])
        return lengths

    @property
    def size(self) -> int:
        """Elements of the part, padding included."""
        return math.prod(self.local_view)

    @property
    def kept(self) -> int:
        """Elements of the part without padding."""
        lengths = list(self.view)
        for cut in self.cuts:
            lengths[cut.axis] = cut.stop - cut.start
        return math.prod(lengths)

    def take(self, whole: Array) -> Array:
        """This part of the whole parameter, as a new array of `local_shape`."""
        local = np.zeros(self.local_view, whole.dtype)
        local[self._inner()] = whole.reshape(self.view)[self._outer()]
        return local.reshape(self.local_shape)

    def put(self, local: Array, whole: Array) -> None:
        """Write this part into the whole parameter (C-contiguous)."""
        whole.reshape(self.view)[self._outer()] = local.reshape(self.local_view)[self._inner()]

    def _outer(self) -> tuple[slice, ...]:
        places = [slice(None)] * len(self.view)
        for cut in self.cuts:
            places[cut.axis] = slice(cut.start, cut.stop)
        return tuple(places)

    def _inner(self) -> tuple[slice, ...]:
        places = [slice(None)] * len(self.view)
        for cut in self.cuts:
            places[cut.axis] = slice(0, cut.stop - cut.start)
        return tuple(places)

    # -- for a manifest -----------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """As numbers and lists."""
        cuts = [[cut.axis, cut.start, cut.stop, cut.length] for cut in self.cuts]
        return {"view": list(self.view), "cuts": cuts}

    @classmethod
    def from_json(cls, shape: Sequence[int], entry: dict[str, Any]) -> "Layout":
        """What `to_json` gave; raises ValueError, TypeError or KeyError for anything else."""
        view, cuts = tuple(entry["view"]), tuple(Cut(*cut) for cut in entry["cuts"])
        if not all(type(n) is int and n >= 0 for n in view) or math.prod(view) != math.prod(shape):
            raise ValueError(f"{view} is no view of {tuple(shape)}")
        for cut in cuts:
            numbers = (cut.axis, cut.start, cut.stop, cut.length)
            if not all(type(n) is int for n in numbers) or not 0 <= cut.axis < len(view):
                raise ValueError(f"{cut} is no cut of {view}")
            inside = 0 <= cut.start <= cut.stop <= view[cut.axis]
            if not inside or not cut.stop - cut.start <= cut.length <= view[cut.axis]:
                raise ValueError(f"{cut} is no cut of {view}")
        return cls(tuple(shape), view, cuts)
