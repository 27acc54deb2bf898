"""One contiguous array for all parameters of a model, and one for their gradients.

Whatever works on all of them (the optimizer, clipping, buckets, shards, checkpoints, the wire)
takes slices of these two.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ringlet.nn.module import Module, Parameter
from ringlet.nn.tensor import Array

Allocate: TypeAlias = Callable[[tuple[int, ...], np.dtype[Any]], Array]


class Slot(NamedTuple):
    """A parameter's place: elements `start` to `stop` of the flat arrays."""

    name: str
    parameter: Parameter
    start: int
    stop: int
    shape: tuple[int, ...]


class FlatParameters:
    """Moves a model's parameters and gradients into two flat arrays, of which they become views.

    `allocate(shape, dtype)` gives the memory. `slots` are in the order of named_parameters().
    Raises TypeError if the parameters have different dtypes.
    """

    def __init__(self, model: Module, allocate: Allocate = np.empty) -> None:
        named = list(model.named_parameters())
        dtypes = {parameter.dtype for _, parameter in named}
        if len(dtypes) != 1:
            names = ", ".join(sorted(map(str, dtypes))) or "none"
            raise TypeError(f"a flat buffer needs parameters of one dtype; found {names}")
        self.dtype = dtypes.pop()
        self.size = sum(parameter.size for _, parameter in named)
        self.data = allocate((self.size,), self.dtype)
        self._grad = allocate((self.size,), self.dtype)
        self.slots: list[Slot] = []
        start = 0
        for name, parameter in named:
            stop = start + parameter.size
            self.slots.append(Slot(name, parameter, start, stop, parameter.shape))
            self._move(self.slots[-1])
            start = stop

    @property
    def memory_of_grad(self) -> Array:
        """The gradients' memory as it is: stale where `grad` would be zeros."""
        return self._grad

    @property
    def grad(self) -> Array:
        """All gradients; zeros where a parameter has got none since zero_grad()."""
        for slot in self.slots:
            _ = slot.parameter.grad  # clears it if it is to be taken as zeros
        return self._grad

    def zero_grad(self) -> None:
        """Take all gradients as zeros; the next backward writes over them."""
        for slot in self.slots:
            slot.parameter.zero_grad()

    def _move(self, slot: Slot) -> None:
        parameter, place = slot.parameter, slice(slot.start, slot.stop)
        view = self.data[place].reshape(slot.shape)
        np.copyto(view, parameter.data)
        parameter.data = view
        parameter.bind_grad(self._grad[place].reshape(slot.shape))


def first_nonfinite(flat: FlatParameters) -> str | None:
    """The name of the first parameter whose gradient is not finite; None if all are."""
    for slot in flat.slots:
        grad = slot.parameter.grad
        if grad is not None and not np.isfinite(grad).all():
            return slot.name
    return None
