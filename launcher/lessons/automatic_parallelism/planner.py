"""The project's planner, asked the same as the student's `choose`."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TypeAlias

from ringlet.runtime.options import Parallelism
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.plan import make_request
from ringlet.runtime.planning.search import search
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.planning.settings import Bounds, Request, meshes
from ringlet.runtime.planning.simulate import simulate

Mesh: TypeAlias = dict[str, int]

AXES = ("dp", "tp", "pp")
FIXED = {
    "cp": 1, "ep": 1, "micro_batch": 1, "zero": 1, "schedule": "1f1b", "chunks": 1,
    "sequence": False, "recompute": (),
}  # fmt: skip
"""What is not searched for."""


@cache
def planner(model: str, cluster: str, ranks: int, batch: int) -> "Planner":
    """Made once, since simulations take a while."""
    return Planner(model, cluster, ranks, batch)


class Planner:
    """A model on a cluster: what each mesh takes, and which is best."""

    def __init__(self, model: str, cluster: str, ranks: int, batch: int) -> None:
        self._name = f"{model}, a batch of {batch} on {ranks} ranks of {cluster}"
        options = Parallelism(zero=1)
        self._request = make_request(
            model, cluster, batch, ranks=ranks, options=options, fixed=FIXED
        )
        self._fabric = Fabric(self._request.cluster.of(ranks))
        self._bounds = Bounds(self._request, self._fabric)
        self.candidates = [mesh for mesh, problem in every_mesh(self._request) if not problem]
        self._simulated: dict[str, tuple[float, float]] = {}
        self._chosen: dict[float, Mesh | None] = {}

    def __str__(self) -> str:
        return self._name

    def simulate(self, mesh: Mesh) -> tuple[float, float]:
        """Seconds of a step, and the most bytes that a rank needs."""
        request, key = self._request, str(mesh)
        if key not in self._simulated:
            setting = self._setting(mesh)
            made = simulate(request.model, request.cluster, setting, fabric=self._fabric)
            self._simulated[key] = made.seconds, max(each.total for each in made.memory)
        return self._simulated[key]

    def least(self, mesh: Mesh) -> float:
        """Seconds that a step takes at least: the planner's first bound, without the sums of
        gradients and the update."""
        return self._bounds.expected(self._setting(mesh))[1]

    def best(self, limit: float) -> Mesh | None:
        """The planner's choice among those that need at most so many bytes."""
        if limit not in self._chosen:
            found = search(replace(self._request, memory=limit)).best
            self._chosen[limit] = only(found[0].setting.mesh) if found else None
        return self._chosen[limit]

    def _setting(self, mesh: Mesh) -> Setting:
        request = self._request
        return Setting(mesh, request.batch, 1, request.options, request.program)


def every_mesh(request: Request) -> list[tuple[Mesh, str]]:
    """All meshes of dp, tp and pp, and why each cannot be; "" if it can."""
    return [(only(mesh), problem) for mesh, problem in meshes(request)]


def only(mesh: Mapping[str, int]) -> Mesh:
    """The three axes of the lesson."""
    return {axis: mesh[axis] for axis in AXES}
