"""What a checkpoint holds: the arrays of a training run, under their logical names.

`parameters/NAME`, `optimizer/STATE/NAME` and others are arrays in a parameter's whole shape. A rank
has pieces of them, and can take its pieces from the whole ones. Where each of several replicas has
its own array, replica 3's is `KIND@3/NAME`; replica 0 has no number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ringlet.nn import FlatParameters
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import copy_from_host
from ringlet.nn.flat import Flat
from ringlet.nn.optim import FlatOptimizer
from ringlet.nn.versions import write
from ringlet.runtime.sharding.shard_spec import ShardSpec


class ArrayPiece(NamedTuple):
    """Consecutive elements of a shard of an array, from the shard's element `first` on."""

    name: str
    values: Array
    spec: ShardSpec
    first: int


@dataclass(frozen=True)
class Replicas:
    """An array belongs to replica `own` of `count`. `shared`: each has a part of a sum."""

    own: int = 0
    count: int = 1
    shared: bool = False


SINGLE = Replicas()


@dataclass(frozen=True)
class FlatArray:
    """An array with an element for each flat parameter's; this rank writes those in `owned`."""

    values: Array
    owned: frozenset[str]
    replicas: Replicas = SINGLE


@dataclass
class Part:
    """Flat parameters, their optimizer, and other arrays by kind.

    This rank writes the parameters in `owned`; `store(name, shard)` sets a parameter's shard.
    """

    flat: Flat
    optimizer: FlatOptimizer
    specs: Mapping[str, ShardSpec]
    owned: frozenset[str]
    store: Callable[[str, Array], None]
    arrays: Mapping[str, FlatArray]


@dataclass(frozen=True)
class Extras:
    """Arrays of other shapes, which only ranks on the same kind of mesh can use.

    `arrays` are written if `owned`; `load` gets them back, if a checkpoint has them.
    """

    arrays: Mapping[str, Array]
    owned: bool
    load: Callable[[Mapping[str, Array]], None]


@dataclass
class TrainingState:
    """All that a run needs to continue, except what follows from its config.

    `shapes` are those of all parameters of the whole model; `extras` go by a prefix.
    """

    parts: Sequence[Part]
    shapes: Mapping[str, tuple[int, ...]]
    extras: Mapping[str, Extras] = field(default_factory=dict)
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.float32))

    @classmethod
    def of(cls, flat: FlatParameters, optimizer: FlatOptimizer) -> "TrainingState":
        """The state of a model that is whole on every rank; each rank may write it."""
        shapes = {slot.name: slot.shape for slot in flat.slots}
        specs = {name: ShardSpec.whole(shape) for name, shape in shapes.items()}
        parameters = {slot.name: slot.parameter for slot in flat.slots}

        def store(name: str, value: Array) -> None:
            write(parameters[name].data, value)

        owned = frozenset(shapes)
        part = Part(flat, optimizer, specs, owned, store, optimizer_arrays(optimizer, owned))
        return cls([part], shapes, dtype=flat.dtype)

    @property
    def optimizer(self) -> FlatOptimizer:
        """The first part's optimizer; those of all parts have taken the same steps."""
        return self.parts[0].optimizer

    def kinds(self) -> dict[str, Replicas]:
        """The kinds of arrays besides parameters, the same on every rank except for `own`."""
        return {kind: array.replicas for kind, array in self.parts[0].arrays.items()}

    def array_names(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all arrays of the whole run, in the same order on every rank."""
        for name, shape in self.shapes.items():
            yield f"parameters/{name}", shape
        for kind, replicas in self.kinds().items():
            for number in range(replicas.count):
                for name, shape in self.shapes.items():
                    yield array_name(kind, number, name), shape

    def pieces(self) -> Iterator[ArrayPiece]:
        """What this rank writes; over all ranks each element is there once."""
        for part in self.parts:
            for slot in part.flat.slots:
                where = part.specs[slot.name], slot.first
                if slot.name in part.owned:
                    values, _ = part.flat.views(slot.start, slot.stop)
                    yield ArrayPiece(f"parameters/{slot.name}", values, *where)
                for kind, array in part.arrays.items():
                    if slot.name in array.owned:
                        name = array_name(kind, array.replicas.own, slot.name)
                        yield ArrayPiece(name, array.values[slot.start : slot.stop], *where)

    def restore(self, name: str, whole: Array) -> None:
        """Take this rank's shard of a whole array."""
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


def optimizer_arrays(
    optimizer: FlatOptimizer, owned: frozenset[str], replicas: Replicas = SINGLE
) -> dict[str, FlatArray]:
    """The optimizer's state by kind."""
    return {
        f"optimizer/{state}": FlatArray(values, owned, replicas)
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
