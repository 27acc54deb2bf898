"""What a checkpoint holds: the arrays of a training run, under their logical names.

`parameters/NAME` and `optimizer/STATE/NAME` are arrays of a parameter's whole shape. A rank has
pieces of them, and can take its pieces from the whole ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ringlet.nn import FlatParameters
from ringlet.nn.flat import Flat
from ringlet.nn.optim import Optimizer
from ringlet.nn.tensor import Array
from ringlet.runtime.layout import Layout


class Piece(NamedTuple):
    """Consecutive elements of a part of an array: `first` onwards of those in the layout's part."""

    name: str
    values: Array
    layout: Layout
    first: int


@dataclass
class Part:
    """Flat parameters, their optimizer, and which parts of which parameters they are.

    This rank writes those in `owned`; `store(name, part)` sets a parameter's part on this rank.
    """

    flat: Flat
    optimizer: Optimizer
    layouts: Mapping[str, Layout]
    owned: frozenset[str]
    store: Callable[[str, Array], None]


@dataclass
class TrainingState:
    """All that a run needs to go on, but for what follows from its config."""

    parts: Sequence[Part]
    shapes: Mapping[str, tuple[int, ...]]
    """Of every parameter of the whole model."""

    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.float32))

    @classmethod
    def of(cls, flat: FlatParameters, optimizer: Optimizer) -> "TrainingState":
        """Of a model that is whole on every rank; each rank may write it."""
        shapes = {slot.name: slot.shape for slot in flat.slots}
        layouts = {name: Layout.whole(shape) for name, shape in shapes.items()}
        parameters = {slot.name: slot.parameter for slot in flat.slots}

        def store(name: str, value: Array) -> None:
            np.copyto(parameters[name].data, value)

        part = Part(flat, optimizer, layouts, frozenset(shapes), store)
        return cls([part], shapes, flat.dtype)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; those of all parts have taken the same steps."""
        return self.parts[0].optimizer

    def array_names(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all arrays of the whole run, in the same order on every rank."""
        for name, shape in self.shapes.items():
            yield f"parameters/{name}", shape
        for state in self.optimizer.STATE:
            for name, shape in self.shapes.items():
                yield f"optimizer/{state}/{name}", shape

    def pieces(self) -> Iterator[Piece]:
        """What this rank writes. Over all ranks each element is there once."""
        for part in self.parts:
            for slot in part.flat.slots:
                if slot.name not in part.owned:
                    continue
                where = part.layouts[slot.name], slot.first
                values, _ = part.flat.views(slot.start, slot.stop)
                yield Piece(f"parameters/{slot.name}", values, *where)
                for state, array in part.optimizer.state.items():
                    values = array[slot.start : slot.stop]
                    yield Piece(f"optimizer/{state}/{slot.name}", values, *where)

    def restore(self, name: str, whole: Array) -> None:
        """Take this rank's part of a whole array."""
        kind, _, rest = name.partition("/")
        for part in self.parts:
            if kind == "parameters":
                if rest in part.layouts:
                    part.store(rest, part.layouts[rest].take(whole))
                continue
            state, _, parameter = rest.partition("/")
            if parameter not in part.layouts:
                continue
            local = part.layouts[parameter].take(whole).reshape(-1)
            for slot in part.flat.slots:
                if slot.name == parameter:
                    target = part.optimizer.state[state][slot.start : slot.stop]
                    target[...] = local[slot.first : slot.first + target.size]

    def restored(self, steps: int) -> None:
        """All arrays are back; so many steps were taken."""
        for part in self.parts:
            part.optimizer.steps = steps
