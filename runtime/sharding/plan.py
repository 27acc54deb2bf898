"""Plans: how the modules of a model are cut, as data.

A plan names the parts of a model made of `embed`, `blocks`, `head` and `loss` (see
nn.models.language_model), and gives a style to each module that changes when tensors, sequences,
contexts or experts are cut. A new model needs a new plan (see runtime/sharding/plans.py) and
nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

import numpy as np

from ringlet.nn import Dropout, Module, PackedAttention, Parameter
from ringlet.nn.models.attention import HeadsAttention
from ringlet.runtime.mesh import Mesh, MeshError, divisors
from ringlet.runtime.sharding.layout import Layout
from ringlet.runtime.tensor.regions import Wire
from ringlet.runtime.tensor.tensor_parallel import (
    ColumnDropout,
    ColumnLinear,
    RowLinear,
    SequenceEmbedding,
)
from ringlet.runtime.tensor.vocabulary_parallel import VocabularyEmbedding, VocabularyLoss


class Slicer:
    """Cuts parameters on behalf of the styles, and remembers what became of each.

    `layouts` and `names` are by the id of the parameter that the model now has; `partial` are
    those whose gradients are sums over the tensor-parallel ranks, since each saw a part of the
    sequence.
    """

    def __init__(self, root: Module, mesh: Mesh, wire: Wire, sequence: bool) -> None:
        self.root, self.mesh, self.wire, self.sequence = root, mesh, wire, sequence
        self.names = {id(parameter): name for name, parameter in root.named_parameters()}
        self.tensor = mesh.size("tp") > 1
        self.layouts: dict[int, Layout] = {}
        self.partial: set[int] = set()
        self.has_experts = False
        self._along: dict[int, tuple[str, ...]] = {}
        self._local: dict[Parameter, Parameter] = {}

    def cut(self, parameter: Parameter, axis: int, parts: int = 1, along: str = "tp") -> Parameter:
        """This rank's part of a parameter. A parameter that is used twice is cut once."""
        if parameter not in self._local:
            place = self.mesh.index(along), self.mesh.size(along)
            layout = self.layout(parameter).cut(axis, *place, parts)
            local = Parameter(np.empty(layout.local_shape, parameter.dtype))
            self.layouts[id(local)], self.names[id(local)] = layout, self.names[id(parameter)]
            self._along[id(local)] = (*self.cut_along(parameter), along)
            self._local[parameter] = local
        return self._local[parameter]

    def layout(self, parameter: Parameter) -> Layout:
        """Which part of the whole parameter the model has."""
        return self.layouts.get(id(parameter)) or Layout.whole(parameter.shape)

    def cut_along(self, parameter: Parameter) -> tuple[str, ...]:
        """The axes of the mesh along which the parameter is cut."""
        return self._along.get(id(parameter), ())

    def sees_a_part(self, *parameters: Parameter | None) -> None:
        """These parameters meet only this rank's part of the sequence."""
        if self.sequence:
            self.partial.update(id(each) for each in parameters if each is not None)


class Style(Protocol):
    """What becomes of a module."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """The module that takes its place, or itself where nothing has to be cut."""


@dataclass(frozen=True)
class Column:
    """A Linear cut by output features; `parts` of them side by side are cut each."""

    parts: int = 1

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        if not slicer.tensor:
            return module
        bias = None if module.bias is None else slicer.cut(module.bias, 0, self.parts)
        return ColumnLinear(slicer.wire, slicer.cut(module.weight, 0, self.parts), bias)


@dataclass(frozen=True)
class Row:
    """A Linear cut by input features."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        if not slicer.tensor:
            return module
        slicer.sees_a_part(module.bias)
        return RowLinear(slicer.wire, slicer.cut(module.weight, 1), module.bias)


@dataclass(frozen=True)
class Vocabulary:
    """An Embedding cut by rows."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        if not slicer.tensor:
            return module
        _refuse_padding(module)
        weight = slicer.cut(module.weight, 0)
        first = slicer.layout(weight).cuts[0].start
        return VocabularyEmbedding(slicer.wire, weight, first, module.num_embeddings)


@dataclass(frozen=True)
class Positions:
    """An Embedding of positions or types: every rank looks up those that it sees."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        if not slicer.sequence:
            return module
        _refuse_padding(module)
        slicer.sees_a_part(module.weight)
        return SequenceEmbedding(slicer.wire, module.weight)


def _refuse_padding(module: Any) -> None:
    if module.padding_idx is not None:
        raise MeshError(
            f"{module.path} has a padding_idx, and a table that is cut over ranks knows none: "
            "without tensor parallelism it would fit"
        )


@dataclass(frozen=True)
class Everywhere:
    """A module that works on each position by itself, on those that this rank has."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        slicer.sees_a_part(*module.parameters())
        if isinstance(module, Dropout) and slicer.sequence:
            module.part = (slicer.mesh.index("tp"), slicer.mesh.size("tp"))
        return module


@dataclass(frozen=True)
class Heads:
    """Attention without parameters: some heads, of positions that may be on other ranks too."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        mesh, parts = slicer.mesh, slicer.mesh.size("tp")
        if module.heads % parts:
            raise MeshError(f"{module.heads} heads cannot be cut into tp={parts} parts")
        if isinstance(module, HeadsAttention):
            return self._cut_in_place(module, mesh)
        heads = module.heads // parts
        if mesh.size("cp") > 1:
            from ringlet.runtime.context.ring_attention import RingSelfAttention

            return RingSelfAttention(mesh.group("cp"), heads)
        return PackedAttention(heads)

    def _cut_in_place(self, module: HeadsAttention, mesh: Mesh) -> HeadsAttention:
        parts = mesh.size("tp")
        if module.groups % parts:
            raise MeshError(
                f"{module.groups} heads of keys cannot be cut into tp={parts} parts; tp can be "
                f"{divisors(module.groups)}"
            )
        heads, groups = module.heads // parts, module.groups // parts
        if mesh.size("cp") > 1:
            from ringlet.runtime.context.ring_attention import RingHeadsAttention

            if not module.causal or module.scale is not None or module.dropout:
                raise MeshError(
                    "only causal attention without biases and dropout goes round a ring: this "
                    "model cannot be cut along its contexts; cp=1 and "
                    f"dp={mesh.size('dp', 'cp')} would fit"
                )
            return RingHeadsAttention(mesh.group("cp"), heads, groups)
        module.heads, module.groups, module.part = heads, groups, (mesh.index("tp"), parts)
        return module


@dataclass(frozen=True)
class HeadTable:
    """An Embedding with a number for each head: those of the heads that are here."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        if slicer.tensor:
            module.weight = slicer.cut(module.weight, 1)
        return module


@dataclass(frozen=True)
class Inside:
    """Dropout between a column-cut Linear and a row-cut one."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        place = slicer.mesh.index("tp"), slicer.mesh.size("tp")
        return ColumnDropout(module.p, *place) if slicer.tensor else module


@dataclass(frozen=True)
class Spread:
    """Experts: some of them on each rank along `ep`, a part of each on every one along `tp`."""

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        from ringlet.runtime.expert.expert_parallel import SpreadExperts

        mesh, slicer.has_experts = slicer.mesh, True
        if module.experts % mesh.size("ep"):
            raise MeshError(
                f"{module.experts} experts cannot be cut into ep={mesh.size('ep')} parts; ep can "
                f"be {divisors(module.experts)}"
            )
        for layer, axes in ((module.c_fc, (1, 1)), (module.c_proj, (2, None))):
            layer.weight = self._cut(slicer, layer.weight, axes[0])
            if layer.bias is not None:
                layer.bias = self._cut(slicer, layer.bias, axes[1])
        return SpreadExperts(module, mesh, slicer.wire)

    def _cut(self, slicer: Slicer, parameter: Parameter, axis: int | None) -> Parameter:
        """By experts, and by an axis of each."""
        if slicer.mesh.size("ep") > 1:
            parameter = slicer.cut(parameter, 0, along="ep")
        if slicer.tensor and axis is not None:
            parameter = slicer.cut(parameter, axis)
        return parameter


@dataclass(frozen=True)
class VocabularyCut:
    """The loss of logits that are cut along the vocabulary, as the weight of `head` is."""

    head: str

    def apply(self, module: Any, slicer: Slicer) -> Any:
        """See Style."""
        if not slicer.tensor:
            return module
        if module.label_smoothing or module.weight is not None or module.ignore_index != -100:
            raise ValueError(
                "logits that are cut along the vocabulary have a plain cross-entropy: no label "
                "smoothing, no weights of classes, and targets of -100 do not count"
            )
        head: Any = slicer.root.submodule(self.head)
        layout = slicer.layout(head.weight)
        (cut,) = layout.cuts
        return VocabularyLoss(slicer.wire.group, cut.start, cut.stop - cut.start, layout.view[0])


@dataclass(frozen=True)
class Plan:
    """Where the parts of a model are, by path, and the styles of its modules, by pattern.

    `blocks` are lists of blocks, one behind the other; `everywhere` is what every stage has.
    """

    embed: tuple[str, ...]
    blocks: tuple[str, ...]
    head: tuple[str, ...]
    styles: Mapping[str, Style]
    everywhere: tuple[str, ...] = ()

    def block_paths(self, model: Module) -> list[str]:
        """Where the blocks are, in order."""
        return [
            f"{path}.{name}" for path in self.blocks for name, _ in model.submodule(path).children()
        ]

    def apply(self, slicer: Slicer) -> None:
        """Exchange the modules of a model that have a style, the parts of their paths known."""
        found = [
            (path, module, style)
            for path, module in slicer.root.named_modules()
            for pattern, style in self.styles.items()
            if fnmatchcase(path, pattern)
        ]
        for path, module, style in found:
            parent, _, name = path.rpartition(".")
            setattr(slicer.root.submodule(parent), name, style.apply(module, slicer))
