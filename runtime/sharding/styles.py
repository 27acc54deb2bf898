"""Styles: what happens to a module when tensors, sequences, contexts or experts are sharded.

A Sharder shards parameters on behalf of the styles, and remembers which shard a rank has.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ringlet.nn import Dropout, Module, PackedAttention, Parameter
from ringlet.nn.models.attention import HeadsAttention
from ringlet.nn.models.rope import DynamicRotaryEmbedding
from ringlet.runtime.context.ring_attention import RingHeadsAttention, RingSelfAttention
from ringlet.runtime.mesh import Mesh
from ringlet.runtime.options import Parallelism
from ringlet.runtime.rules import require
from ringlet.runtime.sharding.shard_spec import ShardSpec
from ringlet.runtime.tensor.regions import ParallelRegion
from ringlet.runtime.tensor.tensor_parallel import (
    ColumnParallelDropout,
    ColumnParallelLinear,
    RowParallelLinear,
    SequenceParallelEmbedding,
)
from ringlet.runtime.tensor.vocabulary_parallel import (
    VocabularyParallelEmbedding,
    VocabularyParallelLoss,
)


class Sharder:
    """Shards parameters on behalf of the styles.

    `names` has the logical name of each parameter that the model now has, by its id. `partial` are
    the ids of those whose gradients must be summed over the tensor-parallel ranks, because each
    rank saw a shard of the sequence, or some heads, only.
    """

    def __init__(
        self, root: Module, mesh: Mesh, region: ParallelRegion, options: Parallelism
    ) -> None:
        self.root, self.mesh, self.region = root, mesh, region
        self.sequence, self.compress = options.sequence, options.compress
        self.names = {id(parameter): name for name, parameter in root.named_parameters()}
        self.tensor = mesh.size("tp") > 1
        self.partial: set[int] = set()
        self.has_experts = False
        self._specs: dict[int, ShardSpec] = {}
        self._axes: dict[int, tuple[str, ...]] = {}
        self._local: dict[Parameter, Parameter] = {}

    def shard(
        self, parameter: Parameter, axis: int, parts: int = 1, along: str = "tp"
    ) -> Parameter:
        """This rank's shard of a parameter. A parameter that is used twice is sharded once."""
        if parameter not in self._local:
            place = self.mesh.index(along), self.mesh.size(along)
            spec = self.spec(parameter).shard(axis, *place, parts)
            local = Parameter(np.empty(spec.local_shape, parameter.dtype))
            self._specs[id(local)], self.names[id(local)] = spec, self.names[id(parameter)]
            self._axes[id(local)] = (*self.axes(parameter), along)
            self._local[parameter] = local
        return self._local[parameter]

    def spec(self, parameter: Parameter) -> ShardSpec:
        """Which shard of the logical parameter this one is."""
        return self._specs.get(id(parameter)) or ShardSpec.whole(parameter.shape)

    def axes(self, parameter: Parameter) -> tuple[str, ...]:
        """The axes of the mesh along which the parameter is sharded."""
        return self._axes.get(id(parameter), ())

    def mark_partial(self, *parameters: Parameter | None) -> None:
        """With sequence parallelism these parameters see only this rank's shard of the sequence."""
        if self.sequence:
            self.partial.update(id(each) for each in parameters if each is not None)


class Style:
    """What happens to a module when its model is sharded."""

    def apply(self, module: Any, sharder: Sharder) -> Any:
        """Return the module that takes its place, or itself where nothing has to change: with
        tensor parallelism what `shard` returns."""
        return self.shard(module, sharder) if sharder.tensor else module

    def shard(self, module: Any, sharder: Sharder) -> Any:
        """Return the module that takes its place on several tensor-parallel ranks."""
        raise NotImplementedError


@dataclass(frozen=True)
class ColumnParallel(Style):
    """A Linear sharded by output features, or by those of each of its `parts` packed parts."""

    parts: int = 1

    def shard(self, module: Any, sharder: Sharder) -> Any:
        bias = None if module.bias is None else sharder.shard(module.bias, 0, self.parts)
        weight = sharder.shard(module.weight, 0, self.parts)
        return ColumnParallelLinear(sharder.region, weight, bias)


class RowParallel(Style):
    """A Linear sharded by input features."""

    def shard(self, module: Any, sharder: Sharder) -> Any:
        sharder.mark_partial(module.bias)
        return RowParallelLinear(sharder.region, sharder.shard(module.weight, 1), module.bias)


class VocabularyParallel(Style):
    """An Embedding sharded by rows."""

    def shard(self, module: Any, sharder: Sharder) -> Any:
        require("padding", path=module.path, padding_idx=module.padding_idx)
        weight = sharder.shard(module.weight, 0)
        first = sharder.spec(weight).slices[0].start
        return VocabularyParallelEmbedding(sharder.region, weight, first, module.num_embeddings)


class PositionParallel(Style):
    """An Embedding of positions or types: each rank looks up those of its shard of the sequence."""

    def apply(self, module: Any, sharder: Sharder) -> Any:
        if not sharder.sequence:
            return module
        require("padding", path=module.path, padding_idx=module.padding_idx)
        sharder.mark_partial(module.weight)
        return SequenceParallelEmbedding(sharder.region, module.weight)


class SequenceParallel(Style):
    """A module that works on each position by itself: on this rank's shard of the sequence."""

    def apply(self, module: Any, sharder: Sharder) -> Any:
        sharder.mark_partial(*module.parameters())
        if isinstance(module, Dropout) and sharder.sequence:
            module.part = (sharder.mesh.index("tp"), sharder.mesh.size("tp"))
        return module


class HeadParallel(Style):
    """Attention without parameters: this rank's heads, and with `cp` a ring for the keys."""

    def apply(self, module: Any, sharder: Sharder) -> Any:
        mesh, parts = sharder.mesh, sharder.mesh.size("tp")
        require("heads", n_head=module.heads, tp=parts)
        heads, ring = module.heads // parts, mesh.size("cp") > 1
        if not isinstance(module, HeadsAttention):
            return RingSelfAttention(mesh.group("cp"), heads) if ring else PackedAttention(heads)
        require("key heads", n_kv_head=module.groups, tp=parts)
        groups = module.groups // parts
        if ring:
            own = module.scale, module.dropout, module.window
            plain = module.causal and own == (None, 0, 0)
            require("causal", plain=plain, ranks=mesh.size("dp", "cp"))
            return RingHeadsAttention(mesh.group("cp"), heads, groups)
        module.heads, module.groups, module.part = heads, groups, (mesh.index("tp"), parts)
        return module


class HeadNormParallel(Style):
    """A normalization of each head: this rank's heads see a part of its gradient."""

    def shard(self, module: Any, sharder: Sharder) -> Any:
        axes = {"tp": sharder.mesh.size("tp"), "compress": sharder.compress}
        require("head norms", head_norm=True, **axes)
        sharder.partial.update(map(id, module.parameters()))
        return module


class WholeText(Style):
    """Rotary positions: those whose angles depend on a text's length need all of it."""

    def apply(self, module: Any, sharder: Sharder) -> Any:
        mesh = sharder.mesh
        plain = mesh.size("cp") == 1 or not isinstance(module, DynamicRotaryEmbedding)
        require("causal", plain=plain, ranks=mesh.size("dp", "cp"))
        return module


class HeadBiasParallel(Style):
    """An Embedding with a number for each head: those of this rank's heads."""

    def shard(self, module: Any, sharder: Sharder) -> Any:
        module.weight = sharder.shard(module.weight, 1)
        return module


class HiddenDropout(Style):
    """Dropout between a column-parallel Linear and a row-parallel one."""

    def shard(self, module: Any, sharder: Sharder) -> Any:
        return ColumnParallelDropout(module.p, sharder.mesh.index("tp"), sharder.mesh.size("tp"))


class ExpertParallel(Style):
    """Experts: some of them on each rank along `ep`, and a shard of each on every rank of `tp`."""

    def apply(self, module: Any, sharder: Sharder) -> Any:
        from ringlet.runtime.expert.expert_parallel import ShardedExperts

        mesh, sharder.has_experts = sharder.mesh, True
        require("experts", experts=module.experts, ep=mesh.size("ep"))
        for layer, axes in ((module.c_fc, (1, 1)), (module.c_proj, (2, None))):
            layer.weight = self._shard(sharder, layer.weight, axes[0])
            if layer.bias is not None:
                layer.bias = self._shard(sharder, layer.bias, axes[1])
        return ShardedExperts(module, mesh, sharder.region)

    def _shard(self, sharder: Sharder, parameter: Parameter, axis: int | None) -> Parameter:
        """By experts, and by an axis of each."""
        if sharder.mesh.size("ep") > 1:
            parameter = sharder.shard(parameter, 0, along="ep")
        if sharder.tensor and axis is not None:
            parameter = sharder.shard(parameter, axis)
        return parameter


@dataclass(frozen=True)
class LossParallel(Style):
    """The loss of logits that are sharded along the vocabulary, as the weight of `head` is."""

    head: str

    def shard(self, module: Any, sharder: Sharder) -> Any:
        if module.label_smoothing or module.weight is not None or module.ignore_index != -100:
            raise ValueError(
                "logits sharded along the vocabulary support the plain cross-entropy only: no "
                "label smoothing, no class weights, and an ignore_index of -100"
            )
        head: Any = sharder.root.submodule(self.head)
        spec = sharder.spec(head.weight)
        (rows,) = spec.slices
        columns, vocabulary = rows.stop - rows.start, spec.view[0]
        return VocabularyParallelLoss(sharder.region.group, rows.start, columns, vocabulary)
