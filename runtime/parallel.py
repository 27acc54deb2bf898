"""`parallelize`: an unchanged single-process model on a mesh of ranks.

The model's blocks are cut into the stages of a pipeline, its layers are replaced as its sharding
plan says, its parameters move into flat buffers, and their gradients are summed over the ranks
that hold the same ones.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from ringlet.comm import timeline
from ringlet.nn import Module, Tensor
from ringlet.nn import random as nn_random
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import chosen
from ringlet.nn.flat import Flat
from ringlet.nn.optim import FlatOptimizer
from ringlet.nn.optim.clipping import sums_of_squares
from ringlet.nn.optim.optimizer import check_groups
from ringlet.runtime.assembly import DATA, REPLICA, Assembly, Values
from ringlet.runtime.checkpoint.state import (
    SINGLE,
    Extras,
    FlatArray,
    Part,
    Replicas,
    TrainingState,
    optimizer_arrays,
)
from ringlet.runtime.compression.automatic import AUTO, choose
from ringlet.runtime.context.context_parallel import zigzag
from ringlet.runtime.data.data_parallel import CompressedDataParallel
from ringlet.runtime.data.local_steps import OuterOptimizer
from ringlet.runtime.mesh import Mesh, MeshError
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.run import Executor, MicroBatch, divide, join
from ringlet.runtime.pipeline.schedules import make_forward, make_schedule
from ringlet.runtime.rules import OPTIONS, problem, require


@dataclass
class Step:
    """The context of a training step: what random numbers depend on, and the loss's scale."""

    seed: int
    step: int
    loss_scale: float


class Parallel:
    """A model on a mesh; made by `parallelize`.

    For a step call `gradients`, then `clip` or `norm`, then `update`. `model` is this rank's part
    of the model, `gradient_groups` its parameters by the ranks that sum their gradients; `names`
    and `shapes` are those of all parameters of the whole model.
    """

    def __init__(
        self,
        model: Module,
        mesh: Mesh,
        options: Parallelism,
        seed: int | None,
        values: Values | None = None,
    ) -> None:
        self.model, self.mesh, self.options = model, mesh, options
        assembly = Assembly(model, mesh, options, seed, values)
        self.gradient_groups, self.shapes = assembly.gradient_groups, assembly.shapes
        self.names = list(self.shapes)
        self.numbers = assembly.numbers
        self._stages, self._paths = assembly.stages, assembly.paths
        self._language_model = cast(Any, model)
        self.outer: OuterOptimizer | None = None
        if options.local_steps > 1:
            rates = options.outer_learning_rate, options.outer_momentum
            self.outer = OuterOptimizer(self.shards, mesh.group("dp"), *rates)
        self._executors: dict[tuple[int, bool], Executor] = {}
        self._step: Step | None = None
        self.optimizers: list[FlatOptimizer] = []
        self.waited = 0.0

    @timeline.recorded("gradients")
    def gradients(self, batches: Sequence[MicroBatch], step: Step) -> float:
        """Run forward and backward of this rank's samples, and sum all ranks' gradients.

        Returns this rank's part of the loss times `step.loss_scale`; the sum over the world is
        the loss. `waited` has the seconds for which this rank waited for others.
        """
        self._step = step
        for group in self.gradient_groups:
            # What all stages have gets a gradient from each of this rank's.
            uses = self.options.chunks if group.kind == "replicated" else 1
            group.reducer.begin(uses * len(batches))
        executor = self._executor(len(batches))
        executor.waited = 0.0
        loss = executor.train(self, batches, step.loss_scale) * step.loss_scale
        self._step = None
        waited = sum(group.reducer.finish() for group in self.gradient_groups)
        started = time.perf_counter()
        for group in self.gradient_groups:
            group.complete(self.mesh)
        self.waited = waited + executor.waited + time.perf_counter() - started
        return 0.0 if self.mesh.index("tp") else loss  # one of the ranks that have it counts it

    def evaluate(self, batches: Sequence[MicroBatch]) -> float:
        """This rank's part of the summed loss of its samples; all ranks make the same calls."""
        self.complete()
        self.model.eval()
        loss = 0.0
        if batches:
            loss = self._executor(len(batches), training=False).evaluate(self, batches)
        self.model.train()
        return 0.0 if self.mesh.index("tp") else loss  # one of the ranks that have it counts it

    @timeline.recorded("norm")
    def norm(self) -> float:
        """The 2-norm of all gradients of the whole model (a collective of the world).

        Parameters are added in the order of the model, so the cut into stages changes no bit.
        """
        for group in self.gradient_groups:
            group.reducer.wait()
        total = np.zeros(len(self.names))
        alone = self.options.zero == 0 and self.mesh.size("tp", "pp", "ep") == 1
        for group in self.gradient_groups:
            owned = group.owned(self.mesh, sharded=self.options.zero > 0)
            counted, shard = set(group.specs if alone else owned), group.reducer.shard
            slots = [slot for slot in shard.slots if slot.name in counted]
            parts = sums_of_squares([shard.views(slot.start, slot.stop)[1] for slot in slots])
            for slot, part in zip(slots, parts, strict=True):
                total[self.numbers[slot.name]] += part
        if not alone:
            local = self.options.local_steps > 1
            ranks = self.mesh.group(*REPLICA) if local else self.mesh.world
            ranks.all_reduce(total, label="gradient norm")
        return math.sqrt(math.fsum(total))

    @timeline.recorded("norm")
    def clip(self, max_norm: float) -> float:
        """Scale all gradients so that their norm is at most `max_norm`; return the norm before.

        Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks"
        (2013).
        """
        norm = self.norm()
        if norm > max_norm:
            for shard in self.shards:
                for start, stop in shard.segments:
                    _, grad = shard.views(start, stop)
                    grad *= max_norm / (norm + 1e-6)
        return norm

    @timeline.recorded("optimizer")
    def update(self, learning_rate: float) -> None:
        """Let the optimizers take a step, and show every rank the new parameters."""
        for optimizer, group in zip(self.optimizers, self.gradient_groups, strict=True):
            group.reducer.complete()
            optimizer.learning_rate = learning_rate
            group.reducer.update(optimizer)
        if self.outer is not None and self.optimizers[0].steps % self.options.local_steps == 0:
            self.waited += self.outer.agree()

    def complete(self) -> None:
        """Do what an update has put off."""
        for group in self.gradient_groups:
            group.reducer.complete()

    @property
    def shards(self) -> list[Flat]:
        """What this rank's optimizers update."""
        return [group.reducer.shard for group in self.gradient_groups]

    def use(self, make: Callable[[Flat], FlatOptimizer]) -> None:
        """Make an optimizer for each gradient group. Raises ValueError for a group of its options
        that fits no parameter of the model."""
        self.optimizers = [make(shard) for shard in self.shards]
        for optimizer in self.optimizers:
            check_groups(optimizer.groups, self.names)

    def state(self) -> TrainingState:
        """What a checkpoint holds of this rank."""
        self.complete()
        mesh, parts = self.mesh, []
        local = self.options.local_steps > 1
        replicas = Replicas(mesh.index("dp"), mesh.size("dp")) if local else SINGLE
        for number, (group, optimizer) in enumerate(
            zip(self.gradient_groups, self.optimizers, strict=True)
        ):
            own = frozenset(group.owned(mesh, sharded=self.options.zero > 0))
            owned = frozenset() if replicas.own else own
            arrays = optimizer_arrays(optimizer, own, replicas)
            if self.outer is not None and self.outer.momenta:
                arrays["outer/momentum"] = FlatArray(self.outer.momenta[number], owned)
            reducer = group.reducer
            if isinstance(reducer, CompressedDataParallel):
                held = frozenset(group.owned(mesh, sharded=True))
                sums = Replicas(group.group.rank, group.group.size, shared=True)
                arrays["residual"] = FlatArray(reducer.residual, held, sums)
            parts.append(Part(reducer.shard, optimizer, group.specs, owned, reducer.store, arrays))
        return TrainingState(parts, self.shapes, dict(self._extras()), self.shards[0].dtype)

    def _extras(self) -> Iterator[tuple[str, Extras]]:
        """What compressors remember; it fits the same `pp` and `tp`, and any `dp`."""
        for group in self.gradient_groups:
            if isinstance(group.reducer, CompressedDataParallel):
                compressor, mesh = group.reducer.compressor, self.mesh
                place = [f"{axis}{mesh.index(axis)}of{mesh.size(axis)}" for axis in ("pp", "tp")]
                prefix = "/".join([self.options.compress, group.kind, *place])
                owned = group.group.rank == 0
                yield prefix, Extras(compressor.state(), owned, compressor.load)

    def restored(self) -> None:
        """All arrays of `state()` have been set anew."""
        if self.outer is not None:
            self.outer.restart()

    @property
    def data_index(self) -> int:
        """Which share of the samples this rank takes."""
        return self.mesh.index("dp", "ep")

    def forward(self, stage: int, x: Tensor | None, batch: MicroBatch) -> Tensor:
        for group in self.gradient_groups:
            group.reducer.before_forward()
        length, contexts = batch.targets.shape[1], self.mesh.size("cp")
        if contexts == 1:
            positions, part = np.arange(length), None
        else:
            require("padded contexts", cp=contexts, masked="attention_mask" in batch.options)
            part = positions = zigzag(length, contexts, self.mesh.index("cp"))
        if self._step is None:
            return self._forward(stage, x, batch, positions)
        first = batch.first_sample
        with nn_random.scope(**vars(self._step), first_sample=first, positions=part, length=length):
            return self._forward(stage, x, batch, positions)

    def end_backward(self) -> None:
        for group in self.gradient_groups:
            group.reducer.end_pass()

    def _forward(self, stage: int, x: Tensor | None, batch: MicroBatch, positions: Array) -> Tensor:
        whole, ids = self._language_model, batch.ids
        lengths = None
        if isinstance(ids, tuple):  # a stage's result has a part for each of several inputs
            lengths = [each.shape[1] for each in ids]
            places: Any = tuple(map(np.arange, lengths))
        else:
            ids, places = ids[:, positions], positions
        common = whole.for_blocks(ids, places, **batch.options)
        state = whole.embed(ids, places, **batch.options) if x is None else divide(x, lengths)
        for number in self._stages[stage]:
            state = whole.advance(self.model.submodule(self._paths[number]), state, common)
        if stage < len(self._stages) - 1:
            return join(state)
        return whole.end(state, batch.targets[:, positions], "sum")

    def _executor(self, micro_batches: int, training: bool = True) -> Executor:
        key = micro_batches, training
        if key not in self._executors:
            mesh, options = self.mesh, self.options
            rank, group = mesh.index("pp"), mesh.group("pp")
            make = make_schedule if training else make_forward
            schedule = make(options.schedule, group.size, micro_batches, options.chunks)
            if training and timeline.current is not None:
                facts = {"schedule": schedule.name, "chunks": schedule.chunks}
                timeline.current.fact(pipeline=group.ranks, **facts)
            self._executors[key] = Executor(rank, schedule, group, options.codec)
        return self._executors[key]


def parallelize(
    model: Module,
    mesh: Mesh,
    options: Parallelism | None = None,
    *,
    seed: int | None = None,
    values: Values | None = None,
) -> Parallel:
    """Put the model on the mesh (a collective of the mesh's world); it is changed in place.

    Without a seed the parameters keep their values, which must be the same on every rank; with one
    they are drawn anew, each rank its own parts, and the model can be made within
    `nn.uninitialized()`; so with `values`, of which each rank asks for its own parts. Raises
    MeshError if the model cannot be cut so.
    """
    options = options or Parallelism()
    device = "cuda" if chosen().on_device else "cpu"
    if text := problem({**vars(options), **mesh.shape, "device": device}, OPTIONS):
        raise MeshError(text)
    if options.compress == AUTO:
        options = replace(options, compress=choose(mesh.group(*DATA)))
    return Parallel(model, mesh, options, seed, values)
