"""Putting a model on a mesh: blocks become stages, layers shards, parameters gradient groups."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeAlias

import ringlet.runtime.device_collectives as device_collectives
from ringlet.nn import Module, Parameter
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import chosen, to_host
from ringlet.nn.parameter import hollow
from ringlet.runtime.compression.collectives import EncodedCollectives
from ringlet.runtime.data.gradient_groups import GradientGroup, make_reducer
from ringlet.runtime.mesh import Mesh, MeshError
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.schedules import placement_of
from ringlet.runtime.rules import require
from ringlet.runtime.sharding.shard_spec import ShardSpec
from ringlet.runtime.sharding.sharding_plans import sharding_plan_of
from ringlet.runtime.sharding.styles import Sharder
from ringlet.runtime.tensor.regions import SequenceParallelRegion, TensorParallelRegion

DATA = ("dp", "ep", "cp")
"""Ranks that differ in these axes hold the same parameters (experts aside)."""

EXPERT = ("dp", "cp")
"""Ranks that differ in these axes hold the same experts."""

REPLICA = ("pp", "ep", "cp", "tp")
"""Ranks that differ in these axes have one whole model together."""

TWIN = "tied head"
"""The kind of tied parameters in the head, where the embedding has its own on the same rank."""

Values: TypeAlias = Callable[[str, ShardSpec, int, int], Array]
"""Gives the elements of a parameter's shard from one place to before another, in a row."""

GROUPS = (("tp",), ("pp",), ("cp",), ("ep",), ("dp",), REPLICA)
"""Other combinations that are needed, made on all ranks in the same order."""


class Assembly:
    """Cuts a model in place and keeps what became of it.

    `stages` has the numbers of each stage's blocks, `paths` the paths of the blocks,
    `gradient_groups` this rank's parameters. `shapes` and `numbers` are the shapes and the
    positions of all parameters of the whole model.
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
        for axes in GROUPS:
            mesh.group(*axes)
        self.plan = sharding_plan_of(model)
        require("frozen", frozen=[n for n, p in model.named_parameters() if not p.requires_grad])
        check_patterns(model, options.recompute)
        there = {path for path, _ in model.named_modules()}
        require("no head", missing=[path for path in self.plan.head if path not in there])
        whole = skeleton(model)
        self.shapes = {name: p.shape for name, p in whole.named_parameters()}
        self.numbers = {name: number for number, name in enumerate(self.shapes)}
        if seed is not None or values is not None:
            hollow(whole.parameters())  # what other ranks have takes no memory here
        self.paths = self.plan.block_paths(model)
        blocks, ranks, chunks = len(self.paths), mesh.size("pp"), options.chunks
        cut = {"pp": ranks, "chunks": chunks, "layers_per_stage": options.layers_per_stage}
        require("stages", n_layer=blocks, **cut)
        require("layers per stage", n_layer=blocks, **cut)
        self._ranks = placement_of(options.schedule, ranks, chunks)
        self.stages = options.stages(blocks, ranks)
        tied = self._tied_names()
        self._twins = self._untie(tied)
        self._prune()
        self.gradient_groups = self._make_groups(tied)
        self._fill(values or self._initial(whole, seed))
        self._recompute()

    @property
    def _blocks(self) -> list[Module]:
        """The blocks on this rank."""
        numbers = [number for stage in self._mine for number in self.stages[stage]]
        return [self.model.submodule(self.paths[number]) for number in numbers]

    @property
    def _mine(self) -> list[int]:
        """The stages on this rank."""
        return [s for s, rank in enumerate(self._ranks) if rank == self.mesh.index("pp")]

    def _tied_names(self) -> dict[str, str]:
        """The parameters that several ranks of a pipeline have: both ends, or all."""
        if self.mesh.size("pp") == 1:
            return {}
        embed, head, all_stages = (
            {id(p) for path in part for p in self.model.submodule(path).parameters()}
            for part in (self.plan.embed, self.plan.head, self.plan.all_stages)
        )
        kinds = {**dict.fromkeys(embed & head, "tied"), **dict.fromkeys(all_stages, "replicated")}
        named = self.model.named_parameters()
        return {name: kinds[id(p)] for name, p in named if id(p) in kinds}

    def _untie(self, tied: dict[str, str]) -> dict[Parameter, Parameter]:
        """Where a pipeline has both of its ends on this rank (a V), give the head parameters of its
        own, as if it were on another rank: gradients add up in the same order then.

        Returns the original of each.
        """
        twins: dict[Parameter, Parameter] = {}
        if not {0, len(self.stages) - 1} <= set(self._mine):
            return twins
        shared = [p for name, p in self.model.named_parameters() if tied.get(name) == "tied"]
        for module in (m for path in self.plan.head for m in self.model.submodule(path).modules()):
            for name, parameter in list(module.own_parameters()):
                if any(parameter is each for each in shared):
                    twin = Parameter(parameter.data)
                    setattr(module, name, twin)
                    twins[twin] = parameter
        return twins

    def _prune(self) -> None:
        model, plan, mesh, options = self.model, self.plan, self.mesh, self.options
        kind = SequenceParallelRegion if options.sequence else TensorParallelRegion
        codec = options.codec
        collectives = device_collectives if codec is None else EncodedCollectives(codec)
        region = kind(mesh.group("tp"), collectives)
        self._sharder = Sharder(model, mesh, region, options)
        for twin, original in self._twins.items():
            self._sharder.names[id(twin)] = self._sharder.names[id(original)]
        kept = {number for stage in self._mine for number in self.stages[stage]}
        _remove(model, [path for number, path in enumerate(self.paths) if number not in kept])
        if 0 not in self._mine:
            _remove(model, plan.embed)
        if len(self.stages) - 1 not in self._mine:
            _remove(model, plan.head)
        plan.apply(self._sharder)
        found = self._sharder.has_experts
        require("no experts", ep=mesh.size("ep"), dp=mesh.size("dp"), experts=found)
        model.assign_paths()

    def _make_groups(self, tied: dict[str, str]) -> list[GradientGroup]:
        """The parameters by the ranks over which their gradients are summed."""
        mesh, sharder = self.mesh, self._sharder
        pipeline, both = mesh.group("pp"), {self._ranks[0], self._ranks[-1]}
        ends = mesh.besides("tied", pipeline.split(sorted(both))) if len(both) > 1 else None
        apart = {"dp"} if self.options.local_steps > 1 else set()
        dense, expert = (mesh.group(*(set(axes) - apart)) for axes in (DATA, EXPERT))
        ranks = {
            "dense": (dense, None),
            "shared": (dense, None),
            "tied": (dense, ends),
            TWIN: (dense, None),
            "replicated": (dense, pipeline),
            "expert": (expert, None),
        }
        kinds: dict[str, list[tuple[str, Parameter]]] = {}
        for _, parameter in self.model.named_parameters():
            name = sharder.names[id(parameter)]
            kinds.setdefault(self._kind_of(name, parameter, tied), []).append((name, parameter))
        after = self._after_blocks()
        groups: list[GradientGroup] = []
        for kind in sorted(kinds):
            group, others = ranks[kind]
            named = sorted(kinds[kind], key=lambda entry: self.numbers[entry[0]])
            # A rank of a pipeline has only a part of a tied gradient: it is not compressed.
            whole = kind in ("dense", "shared", "expert")
            options = self.options if whole else replace(self.options, compress="")
            second, networked = None, group.size > 1 and not group.shares_memory
            if networked and options.zero < 2 and not chosen().on_device:
                second = self.mesh.besides(f"second {kind}", group.split(range(group.size)))
            reducer = make_reducer(options, named, self._blocks, group, second, after)
            specs = {name: sharder.spec(parameter) for name, parameter in named}
            axes = {name: sharder.axes(parameter) for name, parameter in named}
            partial = {name for name, p in named if id(p) in sharder.partial}
            twin = next((g for g in groups if g.kind == "tied"), None) if kind == TWIN else None
            made = GradientGroup(kind, reducer, group, specs, axes, partial, others, twin)
            groups.append(made)
        return groups

    def _after_blocks(self) -> set[int]:
        """The ids of this rank's parameters that are used after all blocks alone."""
        there = {path for path, _ in self.model.named_modules()}
        head, *before = (
            {id(p) for path in there & {*part} for p in self.model.submodule(path).parameters()}
            for part in (self.plan.head, self.plan.embed, self.plan.all_stages)
        )
        return head.difference(*before)

    def _kind_of(self, name: str, parameter: Parameter, tied: dict[str, str]) -> str:
        axes = self._sharder.axes(parameter)
        if "ep" in axes:
            return "expert"
        if name in tied:
            heads = (self.model.submodule(path) for path in self.plan.head if self._twins)
            in_head = any(parameter is p for head in heads for p in head.parameters())
            return TWIN if in_head else tied[name]
        # A compressor looks at many parameters together. On all tensor-parallel ranks it must see
        # the same, or the parameters that they share would drift apart.
        whole = self.options.compress and "tp" not in axes and self.mesh.size("tp") > 1
        return "shared" if whole else "dense"

    def _initial(self, whole: Module, seed: int | None) -> Values:
        """Initial values, or without a seed those that the model had."""
        values = dict(whole.named_parameters())

        def part(name: str, spec: ShardSpec, start: int, stop: int) -> Array:
            if seed is None:
                value = to_host(values[name].data)
            else:
                value = whole.initial_value(name, spec.shape, seed)
            return spec.part(value, start, stop)

        return part

    def _fill(self, values: Values) -> None:
        for group in self.gradient_groups:
            for name, spec in group.specs.items():
                start, stop = group.reducer.kept(name)
                if start < stop:
                    group.reducer.store_part(name, values(name, spec, start, stop), start)

    def _recompute(self) -> None:
        for pattern in self.options.recompute:
            if pattern == "blocks":
                found = self._blocks
            else:
                named = self.model.named_modules()
                found = [module for path, module in named if fnmatchcase(path, pattern)]
            for module in found:
                module.recompute = True


def check_patterns(model: Module, patterns: Sequence[str]) -> None:
    """Raise MeshError for a pattern of modules to recompute that fits none of the whole model."""
    paths = [path for path, _ in model.named_modules() if path]
    for pattern in patterns:
        if pattern != "blocks" and not any(fnmatchcase(path, pattern) for path in paths):
            raise MeshError(
                f"recompute: no module fits {pattern!r}; there are blocks, and patterns of paths "
                f"such as {paths[len(paths) // 2]}"
            )


def skeleton(module: Module) -> Module:
    """The same modules again, with the same parameters: changing one leaves the other as it is."""
    clone = copy.copy(module)
    for name, child in module.named_children():
        setattr(clone, name, skeleton(child))
    return clone


def _remove(model: Module, paths: Sequence[str]) -> None:
    for path in paths:
        parent, _, name = path.rpartition(".")
        delattr(model.submodule(parent), name)
