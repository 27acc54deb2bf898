"""What optimizers share: state as flat arrays, and updates in blocks that fit the cache."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from ringlet.nn.flat import Flat
from ringlet.nn.module import Parameter
from ringlet.nn.tensor import Array

BLOCK = 32 * 1024
"""Elements for each block: parameters, gradients, state and scratch of one fit the cache."""

Decay: TypeAlias = Callable[[str, Parameter], bool]


def matrices(name: str, parameter: Parameter) -> bool:
    """Decay what multiplies (weights, embeddings), not what shifts or scales (biases, norms)."""
    return parameter.ndim >= 2 and not name.endswith("bias")  # experts' biases have two axes


class Optimizer:
    """Updates flat parameters (FlatParameters, or a shard of them) from their gradients.

    `learning_rate` may be set before each `step()`. State is one flat array for each name in
    `STATE`, and the number of steps taken.
    """

    STATE: tuple[str, ...] = ()

    def __init__(self, flat: Flat, learning_rate: float, weight_decay: float, decay: Decay) -> None:
        self.flat, self.learning_rate, self.weight_decay = flat, learning_rate, weight_decay
        self.steps = 0
        self.state: dict[str, Array] = {
            name: np.zeros(flat.size, flat.dtype) for name in self.STATE
        }
        self._scratch = np.empty((2, BLOCK), flat.dtype)
        self._runs = list(_runs(flat, decay))

    def step(self) -> None:
        """Take one step along the gradients."""
        self.prepare()
        self.update_range(0, self.flat.size)

    def prepare(self) -> None:
        """Begin a step that `update_range` carries out, range by range."""
        self.steps += 1
        self.flat.settle()
        self.begin()

    def update_range(self, begin: int, end: int) -> None:
        """Carry out the step for the parameters from `begin` to `end`."""
        for start, stop, decayed in self._runs:
            for first in range(max(start, begin), min(stop, end), BLOCK):
                last = min(first + BLOCK, stop, end)
                data, grad = self.flat.views(first, last)
                decay = self.weight_decay if decayed else 0.0
                state = [array[first:last] for array in self.state.values()]
                self.update(data, grad, decay, state, self._scratch[:, : last - first])

    def begin(self) -> None:
        """Compute what all blocks of this step share."""

    def update(
        self, data: Array, grad: Array, decay: float, state: list[Array], scratch: Array
    ) -> None:
        """Update a block of parameters in place; `grad` must not change, `scratch` may."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"steps": number, and the flat arrays (not copies) by name}."""
        return {"steps": self.steps, **self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; raises KeyError if it is another optimizer's."""
        if set(state) != {"steps", *self.STATE}:
            raise KeyError(
                f"{type(self).__name__} keeps {['steps', *self.STATE]}, the saved state has "
                f"{sorted(state)}"
            )
        self.steps = int(state["steps"])
        for name in self.STATE:
            np.copyto(self.state[name], state[name])


def _runs(flat: Flat, decay: Decay) -> Iterator[tuple[int, int, bool]]:
    """Stretches in one piece whose parameters are all decayed, or all not."""
    start, kind, ends = 0, False, [stop for _, stop in flat.segments]
    for slot in flat.slots:
        decayed = decay(slot.name, slot.parameter)
        while slot.start >= ends[0]:
            yield start, ends[0], kind
            start = ends.pop(0)
        if decayed != kind and slot.start > start:
            yield start, slot.start, kind
            start = slot.start
        kind = decayed
    for end in ends:
        yield start, end, kind
        start = end
