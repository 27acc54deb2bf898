"""The search for the best way to train a model on a cluster.

All settings that the rules allow are listed (settings.py), and looked at in the order of an
estimate. Bounds that need ever more work say what a setting takes and needs at least; one whose
bound is above the best ones found, or above the memory, needs no simulation and mostly no schedule,
so the answer is that of simulating all of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ringlet.runtime.mesh import mesh_text
from ringlet.runtime.planning.fabric import SIMULATED_RANKS, Fabric
from ringlet.runtime.planning.recompute import fitted, needed, needed_at_least, recomputed
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.planning.settings import (
    Bounds,
    Family,
    Request,
    families,
    meshes,
    settings,
)
from ringlet.runtime.planning.simulate import Simulation, simulate

BEST = 10
"""How many of the best settings are kept."""

SIMULATED = 1000
"""On more than SMALL_RANKS, the most settings that are simulated: those of the best estimates."""

ACTIONS = 2_000_000
"""The same of the forwards and backwards that are simulated: long pipelines have many."""

SMALL_RANKS = 16
"""Up to so many ranks a search is exact, its collectives are simulated; beyond, it takes their
closed forms, and simulates those of the best settings."""


@dataclass(frozen=True)
class Candidate:
    """A setting, and what it takes."""

    setting: Setting
    simulation: Simulation

    @property
    def memory(self) -> float:
        """The most bytes that a rank needs."""
        return max(each.total for each in self.simulation.memory)


OBJECTIVES: dict[str, Callable[[Candidate], tuple[float, float]]] = {
    "time": lambda found: (found.simulation.seconds, found.memory),
    "memory": lambda found: (found.memory, found.simulation.seconds),
}
"""What a search minimizes, and what decides between equals."""


@dataclass
class Search:
    """What was found."""

    request: Request
    best: list[Candidate] = field(default_factory=list)
    """The best settings, the first one first; empty if nothing fits."""

    lost: dict[str, str] = field(default_factory=dict)
    """By mesh: why none of its settings is among the best; those that take least come first."""

    nearest: tuple[Setting, float] | None = None
    """If nothing fits: the setting that needs the least memory, and how many bytes."""

    listed: int = 0
    """How many settings the rules allow."""

    simulated: int = 0
    complete: bool = True
    """Whether the rest is known to be worse; else the best estimates were simulated."""


def search(
    request: Request,
    objective: str = "time",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Search:
    """The best settings for a request; `progress` is told how many settings are done, of how many.

    Raises ClusterError if the cluster is too small.
    """
    cluster = request.cluster.of(request.workers)
    request = replace(request, cluster=cluster)
    small = request.workers <= SMALL_RANKS
    fabric = Fabric(cluster, SIMULATED_RANKS if small else 0)
    return _Searching(request, objective, fabric).run(progress, exact=small)


def least_memory(request: Request) -> tuple[Setting, float] | None:
    """A setting that needs as little memory as can be, and the bytes that a rank needs: 1F1B, small
    micro-batches, ZeRO's highest stage, all blocks recomputed, as far as these are free to choose.
    None if the rules allow nothing."""
    options, fixed = request.options, {"schedule": "1f1b", **request.fixed}
    if "recompute" not in fixed:
        options = replace(options, recompute=("blocks",))
    request = replace(request, options=options, fixed=fixed)
    least: tuple[Setting, float] | None = None
    for mesh, problem in meshes(request):
        listed = [] if problem else list(settings(request, mesh))
        stage = max((setting.options.zero for setting in listed), default=0)
        size = min((setting.micro_batch for setting in listed), default=1)
        for setting in listed:
            if setting.options.zero == stage and setting.micro_batch == size:
                nbytes = needed(request.model, setting)
                if least is None or nbytes < least[1]:
                    least = setting, nbytes
    return least


class _Searching:
    """A search while it runs."""

    def __init__(self, request: Request, objective: str, fabric: Fabric) -> None:
        self.request, self.fabric = request, fabric
        self.key, self.by_time = OBJECTIVES[objective], objective == "time"
        self.bounds = Bounds(request, fabric)
        self.free = "recompute" not in request.fixed
        self.found = Search(request)
        self.least: dict[str, tuple[tuple[float, float], str]] = {}
        self.actions = 0

    def run(self, progress: Callable[[int, int], None], exact: bool) -> Search:
        found, ordered, done = self.found, self._listed(), 0
        found.listed = sum(len(family.stages) for *_, family in ordered)
        for _, bound, family in ordered:
            if bound > self._enough():
                self._slower(family.first, bound)
            elif not exact and (found.simulated >= SIMULATED or self.actions >= ACTIONS):
                found.complete = False
                self._slower(family.first, bound)
            else:
                self._try(family)
            done += len(family.stages)
            progress(done, found.listed)
        if found.best:
            found.nearest = None
        if not exact:
            self._simulate_again()
        best = {mesh_text(candidate.setting.mesh) for candidate in found.best}
        slower = sorted(self.least.items(), key=lambda one: one[1][0])
        reasons = {mesh: reason for mesh, (_, reason) in slower if mesh not in best}
        found.lost = {**reasons, **found.lost}
        return found

    def _listed(self) -> list[tuple[float, float, Family]]:
        """(estimate, bound, family) of all settings, the best estimates first."""
        listed: list[tuple[float, float, Family]] = []
        for mesh, problem in meshes(self.request):
            if problem:
                self.found.lost[mesh_text(mesh)] = problem
                continue
            before = len(listed)
            for family in families(self.request, mesh):
                listed.append((*self.bounds.expected(family.first), family))
            if len(listed) == before:
                self.found.lost[mesh_text(mesh)] = "no micro-batches or options fit those given"
        return sorted(listed, key=lambda one: one[:2])

    def _try(self, family: Family) -> None:
        """Try what may be among the best, with equal stages and with balanced ones."""
        for layers_per_stage, bound in self.bounds.cuts(family.first):
            if bound > self._enough():
                self._slower(family.first, bound)
                continue
            for setting in family.members(layers_per_stage):
                self._try_one(setting)

    def _try_one(self, setting: Setting) -> None:
        """Simulate a setting, unless it is too large or too slow."""
        request = self.request
        if (nbytes := needed_at_least(request.model, setting, self.free)) > request.limit:
            self._too_large(setting, nbytes)
            return
        costs = self.bounds.costs(setting)
        if (bound := self.bounds.of_step(costs)) > self._enough():
            self._slower(setting, bound)
            return
        fits, nbytes = fitted(costs, request.limit, self.free)
        if fits is None:
            self._too_large(setting, nbytes)
        elif (
            fits is not setting
            and (bound := self.bounds.of_step(self.bounds.costs(fits))) > self._enough()
        ):
            self._slower(setting, bound)
        else:
            self.found.simulated += 1
            self.actions += 2 * fits.stages * fits.micro_batches
            made = simulate(request.model, request.cluster, fits, fabric=self.fabric)
            self._keep(Candidate(fits, made))

    def _enough(self) -> float:
        """Seconds beyond which a setting is not among the best."""
        best = self.found.best
        return best[-1].simulation.seconds if self.by_time and len(best) == BEST else math.inf

    def _keep(self, candidate: Candidate) -> None:
        best, seconds = self.found.best, candidate.simulation.seconds
        best.append(candidate)
        best.sort(key=self.key)
        del best[BEST:]
        self._reason(candidate.setting, (seconds, 0), f"{seconds:.4g} s {_where(candidate)}")

    def _slower(self, setting: Setting, bound: float) -> None:
        self._reason(setting, (bound, 0), f"at least {bound:.4g} s")

    def _too_large(self, setting: Setting, nbytes: float) -> None:
        """Nothing or too little can be recomputed: a rank needs so many bytes at least."""
        request, found = self.request, self.found
        if not found.best and (found.nearest is None or nbytes < found.nearest[1]):
            for each in [setting, recomputed(setting)] if self.free else [setting]:
                exact = needed(request.model, each)
                if found.nearest is None or exact < found.nearest[1]:
                    found.nearest = each, exact
        text = f"needs at least {nbytes / 1e9:.4g} GB on a rank, of {request.limit / 1e9:.4g}"
        self._reason(setting, (math.inf, nbytes), text)

    def _reason(self, setting: Setting, order: tuple[float, float], text: str) -> None:
        """Remember what the best setting of a mesh takes: seconds, or bytes."""
        mesh = mesh_text(setting.mesh)
        if mesh not in self.least or order < self.least[mesh][0]:
            self.least[mesh] = order, text

    def _simulate_again(self) -> None:
        """Simulate the best settings with their collectives."""
        request, fabric = self.request, Fabric(self.request.cluster)
        best = [
            replace(one, simulation=simulate(
                request.model, request.cluster, one.setting, fabric=fabric
            ))
            for one in self.found.best
        ]  # fmt: skip
        self.found.best = sorted(best, key=self.key)


def _where(candidate: Candidate) -> str:
    """On what the time is lost."""
    simulation = candidate.simulation
    parts = [f"bubble {simulation.bubble:.0%}"] if simulation.bubble > 0.005 else []
    for axis, seconds in sorted(simulation.exposed.items(), key=lambda one: -one[1])[:2]:
        if seconds > 0.005 * simulation.seconds:
            parts.append(f"{axis} {seconds / simulation.seconds:.0%}")
    return f"({', '.join(parts)})" if parts else ""
