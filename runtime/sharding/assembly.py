"""Putting a model on a mesh: its blocks into stages, its layers into parts, its parameters into
families."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from ringlet.comm import Group
from ringlet.nn import Module, Parameter
from ringlet.nn.backend import to_host
from ringlet.runtime.compression.activations import EncodedCarrier
from ringlet.runtime.compression.codecs import make_codec
from ringlet.runtime.data.gradient_groups import Family, make_reducer
from ringlet.runtime.mesh import Mesh, MeshError
from ringlet.runtime.options import Parallelism
from ringlet.runtime.sharding.plan import Plan, Slicer
from ringlet.runtime.sharding.plans import plan_of
from ringlet.runtime.tensor.regions import Carrier, PlainCarrier, Replicated, Sequential
from ringlet.runtime.training.corpus import share

DATA = ("dp", "ep", "cp")
"""Ranks that differ in these axes hold the same parameters (experts aside)."""


EXPERT = ("dp", "cp")
"""So do those with the same experts."""

REPLICA = ("pp", "ep", "cp", "tp")
"""Together they have one whole model."""

GROUPS = (("tp",), ("pp",), ("cp",), ("ep",), ("dp",), REPLICA)
"""Combinations that are needed besides these, made on all ranks in the same order."""


class Assembly:
    """Cuts a model in place; then `stages` are the numbers of each stage's blocks, `paths` where
    the blocks are, `families` this rank's parameters, `shapes` and `numbers` the shapes and places
    of all of the whole model's."""

    def __init__(self, model: Module, mesh: Mesh, options: Parallelism, seed: int | None) -> None:
        self.model, self.mesh, self.options = model, mesh, options
        for axes in GROUPS:
            mesh.group(*axes)
        self.plan: Plan = plan_of(model)
        frozen = next((n for n, p in model.named_parameters() if not p.requires_grad), None)
        if frozen is not None:
            raise MeshError(
                f"{frozen} is frozen, and a mesh trains all parameters: nn.merge_lora(model) if "
                'there is LoRA, and nn.unfreeze(model, "*"), would fit'
            )
        whole = skeleton(model)
        self.shapes = {name: p.shape for name, p in whole.named_parameters()}
        self.numbers = {name: number for number, name in enumerate(self.shapes)}
        self.paths = self.plan.block_paths(model)
        self.stages = cut_blocks(len(self.paths), mesh, options)
        tied = self._tied_names()
        self._prune()
        self.families = self._make_families(tied)
        self._fill(whole, seed)
        self._recompute()

    @property
    def _mine(self) -> list[int]:
        """The stages on this rank."""
        ranks = self.mesh.size("pp")
        return [s for s in range(len(self.stages)) if s % ranks == self.mesh.index("pp")]

    def _tied_names(self) -> dict[str, str]:
        """Parameters that several ranks of a pipeline have, and which: its ends, or all."""
        if self.mesh.size("pp") == 1:
            return {}
        embed, head, everywhere = (
            {id(p) for path in part for p in self.model.submodule(path).parameters()}
            for part in (self.plan.embed, self.plan.head, self.plan.everywhere)
        )
        kinds = {**dict.fromkeys(embed & head, "tied"), **dict.fromkeys(everywhere, "everywhere")}
        named = self.model.named_parameters()
        return {name: kinds[id(p)] for name, p in named if id(p) in kinds}

    def _prune(self) -> None:
        """Leave out what is on other ranks, and exchange what is cut."""
        model, plan, mesh = self.model, self.plan, self.mesh
        wire = Sequential if self.options.sequence else Replicated
        carrier = make_carrier(mesh.group("tp"), self.options)
        self._slicer = Slicer(model, mesh, wire(carrier), self.options.sequence)
        kept = {number for stage in self._mine for number in self.stages[stage]}
        _remove(model, [path for number, path in enumerate(self.paths) if number not in kept])
        if 0 not in self._mine:
            _remove(model, plan.embed)
        if len(self.stages) - 1 not in self._mine:
            _remove(model, plan.head)
        plan.apply(self._slicer)
        if mesh.size("ep") > 1 and not self._slicer.has_experts:
            raise MeshError(
                f"ep={mesh.size('ep')} spreads experts, and this model has none; "
                f"dp={mesh.size('dp', 'ep')} would fit"
            )
        model.assign_paths()

    def _make_families(self, tied: dict[str, str]) -> list[Family]:
        """The parameters by the ranks over which their gradients are summed."""
        mesh, slicer = self.mesh, self._slicer
        ends = _ends(mesh)
        apart = {"dp"} if self.options.local_steps > 1 else set()
        dense, expert = (mesh.group(*(set(axes) - apart)) for axes in (DATA, EXPERT))
        makers = {
            "dense": (dense, None),
            "shared": (dense, None),
            "tied": (dense, ends),
            "everywhere": (dense, mesh.group("pp")),
            "expert": (expert, None),
        }
        kinds: dict[str, list[tuple[str, Parameter]]] = {}
        for _, parameter in self.model.named_parameters():
            name = slicer.names[id(parameter)]
            kind = tied.get(name, "dense")
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
            # A rank of a pipeline has but a part of a tied gradient: it travels as it is.
            options = replace(self.options, compress="") if pair is not None else self.options
            reducer = make_reducer(options, named, blocks, group)
            layouts = {name: slicer.layout(parameter) for name, parameter in named}
            along = {name: slicer.cut_along(parameter) for name, parameter in named}
            partial = {name for name, p in named if id(p) in slicer.partial}
            families.append(Family(kind, reducer, group, layouts, along, partial, pair))
        return families

    def _blocks_of(self, stage: int) -> list[Module]:
        return [self.model.submodule(self.paths[number]) for number in self.stages[stage]]

    def _fill(self, whole: Module, seed: int | None) -> None:
        """Give every parameter its initial value, or the one that the model had."""
        values = dict(whole.named_parameters())
        for family in self.families:
            for name, layout in family.layouts.items():
                if seed is None:
                    value = to_host(values[name].data)
                else:
                    value = whole.initial_value(name, self.shapes[name], seed)
                family.reducer.store(name, layout.take(value))

    def _recompute(self) -> None:
        for pattern in self.options.recompute:
            if pattern == "blocks":
                found = [block for stage in self._mine for block in self._blocks_of(stage)]
            else:
                named = self.model.named_modules()
                found = [module for path, module in named if fnmatchcase(path, pattern)]
            for module in found:
                module.recompute = True


def make_carrier(group: Group, options: Parallelism) -> Carrier:
    """How activations travel inside of layers."""
    if options.compress_activations:
        return EncodedCarrier(group, make_codec(options.compress_activations))
    return PlainCarrier(group)


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
