"""One contiguous array for all parameters of a model, and one for their gradients.

Whatever works on all of them (optimizer, clipping, buckets, shards, checkpoints, transport) takes
slices of these two.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ringlet.nn.backend import Array, aligned_empty, xp
from ringlet.nn.memory import return_freed_memory
from ringlet.nn.module import Module, Parameter

__all__ = ["Flat", "FlatParameters", "Slot", "common_dtype", "first_nonfinite"]

Allocate: TypeAlias = Callable[[tuple[int, ...], np.dtype[Any]], Array]
Named: TypeAlias = Iterable[tuple[str, Parameter]]


LARGE = 1 << 20
"""Bytes of parameters from which it pays to return their old arrays' memory."""


class Slot(NamedTuple):
    """A parameter's place: elements `start` to `stop` of the flat arrays.

    `first` is the index of the parameter's element at `start`: 0 unless only a part is here.
    """

    name: str
    parameter: Parameter
    start: int
    stop: int
    shape: tuple[int, ...]
    first: int = 0


class Flat:
    """Flat parameters and gradients as an optimizer needs them, in one or several pieces.

    `segments` are the (start, stop) of the pieces, in order; `slots` the parameters' places.
    """

    size: int
    dtype: np.dtype[Any]
    slots: list[Slot]
    segments: list[tuple[int, int]]
    whole = False
    """Whether these are all parameters that the model trains, not one rank's."""

    def settle(self) -> None:
        """Make gradients zero where backward wrote nothing."""
        raise NotImplementedError

    def views(self, start: int, stop: int) -> tuple[Array, Array]:
        """Parameters and gradients from `start` to `stop`, within one piece."""
        raise NotImplementedError


class FlatParameters(Flat):
    """Moves a model's parameters and gradients into two flat arrays; they become views of these.

    `allocate(shape, dtype)` provides the memory, by default the backend's. `slots` are in the order
    of named_parameters(), or of the names and parameters given instead of a model. Frozen
    parameters of a model are left out. `starts` are the parameters' places in `size` elements, by
    default one after the other. `copy=False` does not copy the values, `whole=False` says that
    there are parameters elsewhere. Raises TypeError if the parameters have different dtypes.
    """

    def __init__(
        self,
        model: Module | Named,
        allocate: Allocate | None = None,
        *,
        starts: Sequence[int] | None = None,
        size: int | None = None,
        copy: bool = True,
        whole: bool = True,
    ) -> None:
        if isinstance(model, Module):
            model = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        named = list(model)
        self.dtype = common_dtype(parameter for _, parameter in named)
        if starts is None:
            starts = np.cumsum([0, *(parameter.numel() for _, parameter in named)])[:-1].tolist()
        self.slots = [
            Slot(name, parameter, start, start + parameter.numel(), parameter.shape)
            for (name, parameter), start in zip(named, starts, strict=True)
        ]
        self.size = self.slots[-1].stop if size is None else size
        self.segments = [(0, self.size)]
        self.whole = whole
        allocate = allocate or aligned_empty
        self.data = allocate((self.size,), self.dtype)
        self._grad = allocate((self.size,), self.dtype)
        self._clear_gaps()
        for slot in self.slots:
            self._move(slot, copy)
        if self.size * self.dtype.itemsize >= LARGE:
            return_freed_memory()  # the arrays from before

    @property
    def memory_of_grad(self) -> Array:
        """The gradients' memory as it is: stale where `grad` would be zero."""
        return self._grad

    @property
    def grad(self) -> Array:
        """All gradients; zeros where a parameter got none since zero_grad()."""
        self.settle()
        return self._grad

    def settle(self) -> None:
        for slot in self.slots:
            _ = slot.parameter.grad  # clears it if it counts as zeros

    def views(self, start: int, stop: int) -> tuple[Array, Array]:
        return self.data[start:stop], self._grad[start:stop]

    def zero_grad(self) -> None:
        """Reset all gradients to zeros; the next backward overwrites them."""
        for slot in self.slots:
            slot.parameter.zero_grad()

    def _move(self, slot: Slot, copy: bool) -> None:
        parameter, place = slot.parameter, slice(slot.start, slot.stop)
        view = self.data[place].reshape(slot.shape)
        if copy:
            xp.copyto(view, parameter.data)
        parameter.data = view
        parameter.bind_grad(self._grad[place].reshape(slot.shape))

    def _clear_gaps(self) -> None:
        """Zero the gaps between the parameters, which take part in sums."""
        end = 0
        for start, stop in [*((slot.start, slot.stop) for slot in self.slots), (self.size,) * 2]:
            self.data[end:start] = self._grad[end:start] = 0
            end = stop


def common_dtype(parameters: Iterable[Parameter]) -> np.dtype[Any]:
    """The dtype of all; raises TypeError if there are several, or no parameters."""
    dtypes = {parameter.dtype for parameter in parameters}
    if len(dtypes) != 1:
        names = ", ".join(sorted(map(str, dtypes))) or "none"
        raise TypeError(f"a flat buffer needs parameters of one dtype, not {names}")
    return dtypes.pop()


def first_nonfinite(flat: FlatParameters) -> str | None:
    """The name of the first parameter whose gradient is not finite; None if all are."""
    for slot in flat.slots:
        grad = slot.parameter.grad
        if grad is not None and not xp.isfinite(grad).all():
            return slot.name
    return None
