"""`parallelize`: an unchanged single-process model on a mesh of ranks.

The model's blocks are cut into the stages of a pipeline, its layers are exchanged as its plan
says, its parameters are moved into flat buffers, and their gradients are summed over the ranks
that hold the same ones.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, cast

import numpy as np

from ringlet.comm import Group
from ringlet.nn import Module, Parameter, Tensor
from ringlet.nn import random as nn_random
from ringlet.nn.flat import Flat
from ringlet.nn.optim import Optimizer
from ringlet.nn.tensor import Array
from ringlet.runtime.compression.activations import EncodedCarrier, EncodedTransport
from ringlet.runtime.compression.codecs import make_codec
from ringlet.runtime.data import share
from ringlet.runtime.data_parallel import CompressedDataParallel
from ringlet.runtime.families import Family, make_reducer
from ringlet.runtime.local_steps import OuterSteps
from ringlet.runtime.mesh import Mesh, MeshError
from ringlet.runtime.norm import global_norm, scale_gradients, squares
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline import make_schedule
from ringlet.runtime.pipeline.run import Executor, MicroBatch, Plain, Transport
from ringlet.runtime.plan import Plan, Slicer, plan_of
from ringlet.runtime.state import (
    Extras,
    FlatArray,
    Part,
    Replicas,
    TrainingState,
    optimizer_arrays,
)
from ringlet.runtime.wires import Carrier, PlainCarrier, Replicated, Sequential

DATA = ("dp", "ep", "cp")
"""Ranks that differ in these axes hold the same parameters (experts aside)."""


EXPERT = ("dp", "cp")
"""So do those with the same experts."""

REPLICA = ("pp", "ep", "cp", "tp")
"""Together they have one whole model."""

GROUPS = (("tp",), ("pp",), ("cp",), ("ep",), ("dp",), REPLICA)
"""Combinations that are needed besides these, made on all ranks in the same order."""


@dataclass
class Step:
    """What surrounds a training step: random numbers depend on it, and the loss's scale."""

    seed: int
    step: int
    loss_scale: float


class Parallel:
    """A model on a mesh; made by `parallelize`.

    For a step call `gradients`, then `clip` or `norm`, then `update`. `model` is what this rank
    has of the model, `families` its parameters by the ranks with which they are shared, `names`
    and `shapes` are those of all parameters of the whole model.
    """

    def __init__(self, model: Module, mesh: Mesh, options: Parallelism, seed: int | None) -> None:
        self.model, self.mesh, self.options = model, mesh, options
        for axes in GROUPS:
            mesh.group(*axes)
        self.plan: Plan = plan_of(model)
        whole = skeleton(model)
        self.shapes = {name: p.shape for name, p in whole.named_parameters()}
        self.names = list(self.shapes)
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self._chain = cast(Any, model)
        self._stages = cut_blocks(len(self._chain.blocks), mesh, options)
        tied = self._tied_names()
        self._prune()
        self.families = self._make_families(tied)
        self._fill(whole, seed)
        self._recompute()
        self.outer = self._make_outer()
        self._executors: dict[int, Executor] = {}
        self._step: Step | None = None
        self.optimizers: list[Optimizer] = []
        self.waited = 0.0

    # -- a step -------------------------------------------------------------------------------

    def gradients(self, batches: Sequence[MicroBatch], step: Step) -> float:
        """Forward and backward of this rank's samples; all ranks' gradients are summed.

        Returns this rank's part of the loss times `step.loss_scale`: the sum over the world is
        the loss. `waited` is then the seconds for which this rank waited for others.
        """
        self._step = step
        for family in self.families:
            family.reducer.begin(len(batches))
        executor = self._executor(len(batches))
        executor.waited = 0.0
        loss = executor.train(self, batches, step.loss_scale) * step.loss_scale
        self._step = None
        waited = sum(family.reducer.finish() for family in self.families)
        started = time.perf_counter()
        for family in self.families:
            family.complete(self.mesh)
        self.waited = waited + executor.waited + time.perf_counter() - started
        return loss if self.counts_loss else 0.0

    def evaluate(self, batches: Sequence[MicroBatch]) -> float:
        """This rank's part of the summed loss of its samples; every rank calls it alike."""
        self.complete()
        self.model.eval()
        loss = self._executor(len(batches)).evaluate(self, batches) if batches else 0.0
        self.model.train()
        return loss if self.counts_loss else 0.0

    def norm(self) -> float:
        """The 2-norm of all gradients of the whole model (a collective of the world)."""
        for family in self.families:
            family.reducer.arrive()
        total = np.zeros(len(self.names))
        alone = self.options.zero == 0 and self.mesh.size("tp", "pp", "ep") == 1
        for family in self.families:
            owned = family.owned(self.mesh, sharded=self.options.zero > 0)
            counted = family.layouts if alone else owned
            squares(family.reducer.shard, self.numbers, counted, total)
        local = self.options.local_steps > 1
        world = self.mesh.group(*REPLICA) if local else self.mesh.world
        return global_norm(total, None if alone else world)

    def clip(self, max_norm: float) -> float:
        """Scale all gradients so that their norm is at most `max_norm`; the norm before."""
        norm = self.norm()
        if norm > max_norm:
            scale_gradients(self.shards, max_norm / (norm + 1e-6))
        return norm

    def update(self, learning_rate: float) -> None:
        """Let the optimizers take a step, and show every rank the new parameters."""
        for optimizer, family in zip(self.optimizers, self.families, strict=True):
            family.reducer.complete()
            optimizer.learning_rate = learning_rate
            family.reducer.update(optimizer)
        if self.outer is not None and self.optimizers[0].steps % self.options.local_steps == 0:
            self.waited += self.outer.agree()

    def complete(self) -> None:
        """Carry out what is left of an update."""
        for family in self.families:
            family.reducer.complete()

    @property
    def shards(self) -> list[Flat]:
        """What this rank's optimizers update."""
        return [family.reducer.shard for family in self.families]

    def use(self, make: Callable[[Flat], Optimizer]) -> None:
        """Make an optimizer for each family."""
        self.optimizers = [make(shard) for shard in self.shards]

    def state(self) -> TrainingState:
        """What a checkpoint holds of this rank."""
        self.complete()
        parts = []
        for number, (family, optimizer) in enumerate(
            zip(self.families, self.optimizers, strict=True)
        ):
            own = frozenset(family.owned(self.mesh, sharded=self.options.zero > 0))
            owned, arrays = own, optimizer_arrays(optimizer, own)
            if self.outer is not None:
                replicas = Replicas(self.mesh.index("dp"), self.mesh.size("dp"))
                owned = own if replicas.own == 0 else frozenset()
                arrays = optimizer_arrays(optimizer, own, replicas)
                if self.outer.momenta:
                    arrays["outer/momentum"] = FlatArray(self.outer.momenta[number], owned)
            reducer = family.reducer
            if isinstance(reducer, CompressedDataParallel):
                group, held = family.group, family.owned(self.mesh, sharded=True)
                replicas = Replicas(group.rank, group.size, shared=True)
                arrays["residual"] = FlatArray(reducer.residual, frozenset(held), replicas)
            parts.append(
                Part(reducer.shard, optimizer, family.layouts, owned, reducer.store, arrays)
            )
        return TrainingState(parts, self.shapes, dict(self._extras()), self.shards[0].dtype)

    def _extras(self) -> Iterator[tuple[str, Extras]]:
        """What compressors remember; it fits the same cut of the model, and any number of dp."""
        for family in self.families:
            if isinstance(family.reducer, CompressedDataParallel):
                compressor, mesh = family.reducer.compressor, self.mesh
                place = [f"{axis}{mesh.index(axis)}of{mesh.size(axis)}" for axis in ("pp", "tp")]
                prefix = "/".join([self.options.compress, family.kind, *place])
                owned = family.group.rank == 0
                yield prefix, Extras(compressor.state(), owned, compressor.load)

    def restored(self) -> None:
        """All arrays of `state()` have been set anew."""
        if self.outer is not None:
            self.outer.restart()

    @property
    def counts_loss(self) -> bool:
        """Of the ranks that have the same loss, one counts it."""
        return self.mesh.index("tp") == 0

    @property
    def data_index(self) -> int:
        """Which share of the samples this rank takes."""
        return self.mesh.index("dp", "ep")

    # -- the stages, for the executor ---------------------------------------------------------

    def forward(self, stage: int, x: Tensor | None, batch: MicroBatch) -> Tensor:
        """See pipeline.run.Stages."""
        for family in self.families:
            family.reducer.before_forward()
        positions = self._positions(batch.ids.shape[1])
        if self._step is None:
            return self._forward(stage, x, batch, positions)
        cut = self.mesh.size("cp") > 1
        with nn_random.scope(
            seed=self._step.seed,
            step=self._step.step,
            first_sample=batch.first_sample,
            loss_scale=self._step.loss_scale,
            positions=positions if cut else None,
            length=batch.ids.shape[1],
        ):
            return self._forward(stage, x, batch, positions)

    def end_backward(self) -> None:
        """See pipeline.run.Stages."""
        for family in self.families:
            family.reducer.end_pass()

    def _forward(self, stage: int, x: Tensor | None, batch: MicroBatch, positions: Array) -> Tensor:
        if x is None:
            x = self._chain.embed(batch.ids[:, positions], positions)
        blocks = self._chain.blocks
        for number in self._stages[stage]:
            x = blocks.submodule(str(number))(x)
        assert x is not None
        if stage < len(self._stages) - 1:
            return x
        logits = self._chain.head(x)
        loss: Tensor = self._chain.loss(logits, batch.targets[:, positions], "sum")
        return loss

    def _positions(self, length: int) -> Array:
        if self.mesh.size("cp") == 1:
            return np.arange(length)
        from ringlet.runtime.context_parallel import zigzag

        positions: Array = zigzag(length, self.mesh.size("cp"), self.mesh.index("cp"))
        return positions

    def _executor(self, micro_batches: int) -> Executor:
        if micro_batches not in self._executors:
            mesh, options = self.mesh, self.options
            name, chunks = (
                ("1f1b", 1) if mesh.size("pp") == 1 else (options.schedule, options.chunks)
            )
            schedule = make_schedule(name, mesh.size("pp"), micro_batches, chunks)
            transport = make_transport(mesh.group("pp"), options)
            self._executors[micro_batches] = Executor(mesh.index("pp"), schedule, transport)
        return self._executors[micro_batches]

    # -- making it ----------------------------------------------------------------------------

    @property
    def _mine(self) -> list[int]:
        """The stages on this rank."""
        ranks = self.mesh.size("pp")
        return [s for s in range(len(self._stages)) if s % ranks == self.mesh.index("pp")]

    def _tied_names(self) -> set[str]:
        """Parameters of both ends of the model, if these are on different ranks."""
        if self.mesh.size("pp") == 1:
            return set()
        ends = [
            {id(p) for path in part for p in self.model.submodule(path).parameters()}
            for part in (self.plan.embed, self.plan.head)
        ]
        return {name for name, p in self.model.named_parameters() if id(p) in ends[0] & ends[1]}

    def _prune(self) -> None:
        """Leave out what is on other ranks, and exchange what is cut."""
        model, plan, mesh = self.model, self.plan, self.mesh
        wire = Sequential if self.options.sequence else Replicated
        carrier = make_carrier(mesh.group("tp"), self.options)
        self._slicer = Slicer(model, mesh, wire(carrier), self.options.sequence)
        kept = {number for stage in self._mine for number in self._stages[stage]}
        blocks = model.submodule(plan.blocks)
        for number in {number for stage in self._stages for number in stage} - kept:
            delattr(blocks, str(number))
        if 0 not in self._mine:
            _remove(model, plan.embed)
        if len(self._stages) - 1 not in self._mine:
            _remove(model, plan.head)
        plan.apply(self._slicer)
        model.assign_paths()

    def _make_families(self, tied: set[str]) -> list[Family]:
        """The parameters by the ranks over which their gradients are summed."""
        mesh, slicer = self.mesh, self._slicer
        ends = _ends(mesh)
        apart = {"dp"} if self.options.local_steps > 1 else set()
        dense, expert = (mesh.group(*(set(axes) - apart)) for axes in (DATA, EXPERT))
        makers = {
            "dense": (dense, None),
            "shared": (dense, None),
            "tied": (dense, ends),
            "expert": (expert, None),
        }
        kinds: dict[str, list[tuple[str, Parameter]]] = {}
        for _, parameter in self.model.named_parameters():
            name = slicer.names[id(parameter)]
            kind = "tied" if name in tied else "dense"
            if self.options.compress and kind == "dense":
                # A compressor looks at many parameters together. On all tensor-parallel ranks
                # it must see the same, or what they have in common would come apart.
                cut = "tp" in slicer.cut_along(parameter) or mesh.size("tp") == 1
                kind = "dense" if cut else "shared"
            if any(cut == "ep" for cut in slicer.cut_along(parameter)):
                kind = "expert"
            kinds.setdefault(kind, []).append((name, parameter))
        families = []
        for kind in sorted(kinds):
            group, pair = makers[kind]
            named = sorted(kinds[kind], key=lambda entry: self.numbers[entry[0]])
            blocks = [b for stage in self._mine for b in self._blocks_of(stage)]
            # Each end of a pipeline has but a part of a tied gradient: it travels as it is.
            options = replace(self.options, compress="") if kind == "tied" else self.options
            reducer = make_reducer(options, named, blocks, group)
            layouts = {name: slicer.layout(parameter) for name, parameter in named}
            along = {name: slicer.cut_along(parameter) for name, parameter in named}
            partial = {name for name, p in named if id(p) in slicer.partial}
            families.append(Family(kind, reducer, group, layouts, along, partial, pair))
        return families

    def _blocks_of(self, stage: int) -> list[Module]:
        return [self._chain.blocks.submodule(str(number)) for number in self._stages[stage]]

    def _fill(self, whole: Module, seed: int | None) -> None:
        """Give every parameter its initial value, or the one that the model had."""
        values = dict(whole.named_parameters())
        for family in self.families:
            for name, layout in family.layouts.items():
                if seed is None:
                    value = values[name].data
                else:
                    value = whole.initial_value(name, self.shapes[name], seed)
                family.reducer.store(name, layout.take(value))

    def _make_outer(self) -> OuterSteps | None:
        options = self.options
        if options.local_steps == 1:
            return None
        rates = options.outer_learning_rate, options.outer_momentum
        return OuterSteps(self.shards, self.mesh.group("dp"), *rates)

    def _recompute(self) -> None:
        for pattern in self.options.recompute:
            if pattern == "blocks":
                found = [block for stage in self._mine for block in self._blocks_of(stage)]
            else:
                named = self.model.named_modules()
                found = [module for path, module in named if fnmatchcase(path, pattern)]
            for module in found:
                module.recompute = True


def parallelize(
    model: Module, mesh: Mesh, options: Parallelism | None = None, *, seed: int | None = None
) -> Parallel:
    """The model on the mesh (a collective of the mesh's world); the model is changed in place.

    Without a seed the parameters keep their values, which have to be the same on every rank; with
    one they are drawn anew, each rank its own parts: then the model can be made within
    `nn.uninitialized()`. Raises MeshError if the model cannot be cut so.
    """
    options = options or Parallelism()
    options.check(mesh.shape)
    return Parallel(model, mesh, options, seed)


def make_carrier(group: Group, options: Parallelism) -> Carrier:
    """How activations travel inside of layers."""
    if options.compress_activations:
        return EncodedCarrier(group, make_codec(options.compress_activations))
    return PlainCarrier(group)


def make_transport(group: Group, options: Parallelism) -> Transport:
    """How they travel between stages."""
    if options.compress_activations:
        return EncodedTransport(group, make_codec(options.compress_activations))
    return Plain(group)


def cut_blocks(blocks: int, mesh: Mesh, options: Parallelism) -> list[range]:
    """Which blocks each stage has; the first stages have one more where they do not divide."""
    stages = mesh.size("pp") * options.chunks
    if stages > blocks:
        raise MeshError(
            f"{blocks} blocks cannot be cut into pp={mesh.size('pp')} x {options.chunks} stages; "
            f"at most {blocks} stages would fit"
        )
    ranges = []
    for stage in range(stages):
        first, count = share(blocks, stages, stage)
        ranges.append(range(first, first + count))
    return ranges


def skeleton(module: Module) -> Module:
    """The same modules again, with the same parameters: what happens to one leaves the other."""
    clone = copy.copy(module)
    for name, child in module.children():
        setattr(clone, name, skeleton(child))
    return clone


def _remove(model: Module, paths: Sequence[str]) -> None:
    for path in paths:
        parent, _, name = path.rpartition(".")
        delattr(model.submodule(parent), name)


def _ends(mesh: Mesh) -> Group | None:
    """The first and last rank of this rank's pipeline; None on the others (a collective)."""
    if mesh.size("pp") == 1:
        return None
    pipeline = mesh.group("pp")
    return pipeline.split([0, pipeline.size - 1])
