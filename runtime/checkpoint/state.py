"""What a checkpoint holds: the arrays of a training run, under their logical names.

`parameters/NAME`, `optimizer/STATE/NAME` and others are arrays of a parameter's whole shape. A
rank has pieces of them, and can take its pieces from the whole ones. Where each of several
replicas has an array of its own, that of replica 3 is `KIND@3/NAME`; replica 0 bears no number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ringlet.nn import FlatParameters
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import copy_from_host
from ringlet.nn.flat import Flat
from ringlet.nn.optim import Optimizer
from ringlet.runtime.sharding.shard_spec import ShardSpec


class Piece(NamedTuple):
    """Consecutive elements of a part of an array: `first` onwards of those in the spec's part."""

    name: str
    values: Array
    spec: ShardSpec
    first: int


@dataclass(frozen=True)
class Replicas:
    """Whose an array is: number `own` of `count`. `shared`: a sum of which each has a share."""

    own: int = 0
    count: int = 1
    shared: bool = False


@dataclass(frozen=True)
class FlatArray:
    """An array with an element for each of the flat parameters'.

    This rank writes its parts of those parameters that are in `owned`.
    """

    values: Array
    owned: frozenset[str]
    replicas: Replicas = field(default_factory=Replicas)


@dataclass
class Part:
    """Flat parameters, their optimizer and other arrays by kind, and where they belong.

    This rank writes those in `owned`; `store(name, part)` sets a parameter's part on this rank.
    """

    flat: Flat
    optimizer: Optimizer
    specs: Mapping[str, ShardSpec]
    owned: frozenset[str]
    store: Callable[[str, Array], None]
    arrays: Mapping[str, FlatArray]


@dataclass(frozen=True)
class Extras:
    """Arrays of some other shape, of which a rank on the same kind of mesh may make use.

    `arrays` are written if `owned`; `load` gets them back, if a checkpoint has them.
    """

    arrays: Mapping[str, Array]
    owned: bool
    load: Callable[[Mapping[str, Array]], None]


@dataclass
class TrainingState:
    """All that a run needs to go on, but for what follows from its config."""

    parts: Sequence[Part]
    shapes: Mapping[str, tuple[int, ...]]
    """Of every parameter of the whole model."""

    extras: Mapping[str, Extras] = field(default_factory=dict)
    """By a prefix that says what for."""

    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.float32))

    @classmethod
    def of(cls, flat: FlatParameters, optimizer: Optimizer) -> "TrainingState":
        """Of a model that is whole on every rank; each rank may write it."""
        shapes = {slot.name: slot.shape for slot in flat.slots}
        specs = {name: ShardSpec.whole(shape) for name, shape in shapes.items()}
        parameters = {slot.name: slot.parameter for slot in flat.slots}

        def store(name: str, value: Array) -> None:
            copy_from_host(parameters[name].data, value)

        owned = frozenset(shapes)
        arrays = optimizer_arrays(optimizer, owned)
        part = Part(flat, optimizer, specs, owned, store, arrays)
        return cls([part], shapes, dtype=flat.dtype)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; those of all parts have taken the same steps."""
        return self.parts[0].optimizer

    def kinds(self) -> dict[str, Replicas]:
        """The kinds of arrays besides parameters; the same on every rank, but for `own`."""
        return {kind: array.replicas for kind, array in self.parts[0].arrays.items()}

    def array_names(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all arrays of the whole run, in the same order on every rank."""
        for name, shape in self.shapes.items():
            yield f"parameters/{name}", shape
        for kind, replicas in self.kinds().items():
            for number in range(replicas.count):
                for name, shape in self.shapes.items():
                    yield array_name(kind, number, name), shape

    def pieces(self) -> Iterator[Piece]:
        """What this rank writes. Over all ranks each element is there once."""
        for part in self.parts:
            for slot in part.flat.slots:
                where = part.specs[slot.name], slot.first
                if slot.name in part.owned:
                    values, _ = part.flat.views(slot.start, slot.stop)
                    yield Piece(f"parameters/{slot.name}", values, *where)
                for kind, array in part.arrays.items():
                    if slot.name in array.owned:
                        name = array_name(kind, array.replicas.own, slot.name)
                        yield Piece(name, array.values[slot.start : slot.stop], *where)

    def restore(self, name: str, whole: Array) -> None:
        """Take this rank's part of a whole array."""
        kind, number, parameter = split_name(name)
        for part in self.parts:
            if parameter not in part.specs:
                continue
            local = part.specs[parameter].take(whole)
            if kind == "parameters":
                part.store(parameter, local)
                continue
            array = part.arrays.get(kind)
            if array is None or number != array.replicas.own:
                continue
            for slot in part.flat.slots:
                if slot.name == parameter:
                    target = array.values[slot.start : slot.stop]
                    copy_from_host(target, local.reshape(-1)[slot.first : slot.first + target.size])

    def restored(self, steps: int) -> None:
        """All arrays are back; so many steps were taken."""
        for part in self.parts:
            part.optimizer.steps = steps


def optimizer_arrays(
    optimizer: Optimizer, owned: frozenset[str], replicas: Replicas | None = None
) -> dict[str, FlatArray]:
    """The optimizer's state by kind."""
    whose = replicas or Replicas()
    return {
        f"optimizer/{state}": FlatArray(values, owned, whose)
        for state, values in optimizer.state.items()
    }


def array_name(kind: str, replica: int, name: str) -> str:
    """optimizer/exp_avg, 0, h.0.bias -> optimizer/exp_avg/h.0.bias"""
    return f"{kind}@{replica}/{name}" if replica else f"{kind}/{name}"


def split_name(name: str) -> tuple[str, int, str]:
    """The kind, the replica's number and the parameter's name."""
    kind, _, parameter = name.rpartition("/")
    kind, _, number = kind.partition("@")
    return kind, int(number or 0), parameter
