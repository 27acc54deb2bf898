"""Sharding parameters, and remembering which shard of which parameter a rank has."""

import numpy as np

from ringlet.nn import Module, Parameter
from ringlet.runtime.mesh import Mesh
from ringlet.runtime.sharding.shard_spec import ShardSpec
from ringlet.runtime.tensor.regions import Region


class Sharder:
    """Shards parameters on behalf of the styles (see styles.py).

    `names` has the logical name of each parameter that the model now has, by its id. `partial` are
    the ids of those whose gradients must be summed over the tensor-parallel ranks, because each
    rank saw a shard of the sequence only.
    """

    def __init__(self, root: Module, mesh: Mesh, region: Region, sequence: bool) -> None:
        self.root, self.mesh, self.region, self.sequence = root, mesh, region, sequence
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
