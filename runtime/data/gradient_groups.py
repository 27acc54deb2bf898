"""Gradient groups: parameters whose gradients are summed over the same ranks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ringlet.comm import Group
from ringlet.nn import FlatParameters, Module, Parameter
from ringlet.nn.backend import xp
from ringlet.runtime.compression import make_compressor
from ringlet.runtime.data.bucket_size import bucket_bytes_for
from ringlet.runtime.data.data_parallel import CompressedDataParallel, DataParallel
from ringlet.runtime.data.priority import PriorityDataParallel
from ringlet.runtime.data.reducer import Reducer
from ringlet.runtime.data.zero import ZeroOptimizer
from ringlet.runtime.data.zero_blocks import UnitParameters, ZeroGradients, ZeroParameters
from ringlet.runtime.device_collectives import all_reduce, empty
from ringlet.runtime.mesh import Mesh
from ringlet.runtime.options import Parallelism
from ringlet.runtime.sharding.shard_spec import ShardSpec


@dataclass
class GradientGroup:
    """Some parameters of this rank, and how their gradients become those of the whole model.

    `group` are the ranks with copies of the same shards, over which the reducer sums. `partial`
    gradients are then summed over the tensor-parallel ranks too, and those of a parameter that
    several ranks of a pipeline have over these (`ends`). Where both ends of a pipeline are on one
    rank, the head's group has that of the embedding as `twin`, with the same parameters. `axes` has
    the axes of the mesh along which each parameter is sharded.
    """

    kind: str
    reducer: Reducer
    group: Group
    specs: Mapping[str, ShardSpec]
    axes: Mapping[str, tuple[str, ...]]
    partial: set[str]
    ends: Group | None
    twin: "GradientGroup | None" = None

    def complete(self, mesh: Mesh) -> None:
        """Sum what the reducer does not sum."""
        shard = self.reducer.shard
        shard.settle()
        if self.partial or self.ends is not None or self.twin is not None:
            self.reducer.wait()
        partial = [slot for slot in shard.slots if slot.name in self.partial]
        parts = [shard.views(slot.start, slot.stop)[1] for slot in partial]
        if parts:
            joined = xp.concatenate(parts)
            all_reduce(mesh.group("tp"), joined, label="gradients of sequence parts")
            for part in parts:
                part[...], joined = joined[: part.size], joined[part.size :]
        if self.ends is not None:
            for start, stop in shard.segments:
                _, grad = shard.views(start, stop)
                all_reduce(self.ends, grad, label="gradients of tied parameters")
        if self.twin is not None:
            self.twin.reducer.wait()
            for start, stop in shard.segments:
                (_, grad), (_, other) = (
                    s.views(start, stop) for s in (self.twin.reducer.shard, shard)
                )
                grad += other
                other[...] = grad

    def owned(self, mesh: Mesh, sharded: bool) -> Iterator[str]:
        """The parameters of which this rank's part counts: each element counts on one rank."""
        if self.group.rank and not sharded:
            return
        if self.twin is not None or (self.ends is not None and self.ends.rank):
            return
        for name, axes in self.axes.items():
            if "tp" in axes or mesh.index("tp") == 0:
                yield name


def make_reducer(
    options: Parallelism,
    named: Sequence[tuple[str, Parameter]],
    blocks: Sequence[Module],
    group: Group,
    second: Group | None = None,
    after: Collection[int] = (),
) -> Reducer:
    """The reducer that the options ask for; from ZeRO stage 2 on it works block by block. Up to
    stage 1 it uses a `second` group of the same ranks, too, if there is one. `after` has the ids of
    the parameters that are used after all blocks alone."""
    # ZeRO's shards and compressors' choices end where buckets do, and rounding with them.
    same_bits = not (options.zero or options.compress)
    gradient_bytes = sum(parameter.data.nbytes for _, parameter in named)
    bucket_bytes = options.bucket_bytes or bucket_bytes_for(group, gradient_bytes, same_bits)
    if options.zero == 0:
        flat = FlatParameters(named, partial(empty, group), copy=False, whole=False)
        if options.priority and group.size > 1:
            return PriorityDataParallel(flat, group, blocks, bucket_bytes, second, after)
        if options.compress and group.size > 1:
            compressor = make_compressor(options.compress, group)
            return CompressedDataParallel(flat, group, compressor, bucket_bytes, second)
        return DataParallel(flat, group, bucket_bytes, second)
    if options.zero == 1:
        return ZeroOptimizer(named, group, bucket_bytes, False, second, blocks, after)
    of_block = {id(p): block for block in blocks for p in block.parameters()}
    units: list[UnitParameters] = [
        ([(name, p) for name, p in named if of_block.get(id(p)) is block], block)
        for block in (None, *blocks)
    ]
    kind = ZeroGradients if options.zero == 2 else ZeroParameters
    return kind([unit for unit in units if unit[0]], group)
