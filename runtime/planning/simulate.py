"""A training step, simulated: pipeline, collectives, update; and where its time goes.

Replicas do the same, so one pipeline stands for all (and one more for each with a straggler); each
distinct collective is simulated once, with all groups that share links with it (fabric.py). The
pipeline is ringlet's own schedule, priced as it runs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ringlet.runtime.data.bucket_size import bucket_count
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.price import PipelinePrice, price
from ringlet.runtime.planning.cluster import Cluster
from ringlet.runtime.planning.costs import (
    ModelCosts,
    Seconds,
    hardware_flops,
    merged,
    model_flops,
)
from ringlet.runtime.planning.critical import Segment, critical_path
from ringlet.runtime.planning.fabric import Fabric, Ranks
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.finish import finish, gathers, sums
from ringlet.runtime.planning.footprint import Footprint, footprints, shards
from ringlet.runtime.planning.models import Model
from ringlet.runtime.planning.setting import Setting

BUCKETS = 64
"""The most buckets that are simulated one by one; more behave the same."""


@dataclass(frozen=True)
class Simulation:
    """What a simulated step takes, and why."""

    seconds: float
    tokens_per_second: float
    mfu: float
    """Model FLOPs utilisation: the model's FLOPs, nothing computed twice counted, as a part of
    what all devices could do (Chowdhery et al., "PaLM", 2022)."""

    hfu: float
    """Hardware FLOPs utilisation: the same with what recomputation repeats."""

    bubble: float
    """The part of the pipeline's time in which its ranks wait for each other."""

    exposed: Mapping[str, float]
    """By axis (and "tied", "norm"): seconds of the slowest rank's step in which it only
    communicates."""

    links: Mapping[str, float]
    """By tier: the part of the step in which the busiest port is busy."""

    memory: tuple[Footprint, ...]
    """By rank of the pipeline."""

    finished: tuple[float, ...]
    """By rank of the pipeline: when its gradients are summed."""

    _step: "_Step" = field(repr=False, compare=False)

    @cached_property
    def path(self) -> tuple[Segment, ...]:
        """The critical path, from the beginning of the step to its end."""
        last = max(range(len(self.finished)), key=self.finished.__getitem__)
        return (*self._step.path(last, self.finished[last]), *self._step.tail)

    @property
    def where(self) -> dict[str, float]:
        """Seconds of the critical path by what they are spent on."""
        return dict(merged((segment.what, segment.seconds) for segment in self.path))


def simulate(
    model: Model,
    cluster: Cluster,
    setting: Setting,
    slow: Mapping[int, float] | None = None,
    fabric: Fabric | None = None,
) -> Simulation:
    """Simulate a step. `slow` has stragglers: rank -> by what factor it computes longer. Several
    simulations on a cluster can share a `fabric`; Fabric(cluster, 0) has closed forms alone.

    Raises ClusterError if the cluster is too small, MeshError if the model cannot be cut so.
    """
    if setting.ranks > cluster.ranks:
        raise ClusterError(
            f"{cluster.name or 'the cluster'} has {cluster.ranks} devices, and the mesh needs "
            f"{setting.ranks}"
        )
    for rank, factor in (slow or {}).items():
        if not 0 <= rank < setting.ranks or not 0 < factor < math.inf:
            raise ClusterError(
                f"rank {rank} is {factor} times as slow; there are {setting.ranks} ranks, and a "
                "factor must be above 0"
            )
    costs = ModelCosts(model, cluster, setting, fabric=fabric or Fabric(cluster))
    return _Step(costs, slow or {}).simulation()


class _Step:
    """The parts of a step, one after the other."""

    def __init__(self, costs: ModelCosts, slow: Mapping[int, float]) -> None:
        self.costs, self.model, self.setting = costs, costs.model, costs.setting
        self.cluster, self.fabric = costs.cluster, costs.fabric
        self.pipeline, self.schedule = self.setting.mesh["pp"], self.setting.schedule
        self.shards = shards(self.model, self.setting)
        self.columns = [self._price(factors) for factors in self._columns(slow)]
        self.exposed: dict[str, float] = {}
        self.tail: list[Segment] = []

    def simulation(self) -> Simulation:
        finished = [self._summed(rank) for rank in range(self.pipeline)]
        last = max(range(self.pipeline), key=finished.__getitem__)
        seconds = finished[last]
        for what, more in finish(self.costs, self.shards):
            seconds += more
            self.tail.append(Segment(what, last, more))
            if what != "update":
                self.exposed[what] = more
        micro_batches = self.setting.micro_batches
        for stage in self.schedule.stages_of(last):
            for axis, each in self.costs.stages[stage].exposed:
                self.exposed[axis] = self.exposed.get(axis, 0.0) + each * micro_batches
        samples = self.setting.batch
        possible = seconds * self.setting.ranks
        possible *= self.cluster.device.peak_of(self.setting.program.precision.dtype)
        return Simulation(
            seconds=seconds,
            tokens_per_second=samples * self.model.context / seconds,
            mfu=model_flops(self.model, samples) / possible,
            hfu=hardware_flops(self.model, samples, self.setting.options) / possible,
            bubble=self.columns[0].bubble,
            exposed=self.exposed,
            links=self._links(seconds),
            memory=footprints(self.model, self.setting),
            finished=tuple(finished),
            _step=self,
        )

    # -- the pipeline ---------------------------------------------------------------------------

    def _columns(self, slow: Mapping[int, float]) -> list[tuple[float, ...]]:
        """By how much each rank of a pipeline is slower: of a healthy replica, and of each with
        stragglers. A rank waits for those with which it shares layers."""
        ranks = self.setting.ranks // self.pipeline
        shared = self.setting.strides["dp"]
        found: dict[int, list[float]] = {}
        for rank, factor in slow.items():
            stage, place = divmod(rank, ranks)
            column = found.setdefault(place // shared, [1.0] * self.pipeline)
            column[stage] = max(column[stage], factor)
        healthy = [] if len(found) == ranks // shared else [(1.0,) * self.pipeline]
        return [*healthy, *sorted({tuple(column) for column in found.values()})]

    def _price(self, factors: tuple[float, ...]) -> PipelinePrice:
        stages = self.costs.stages
        slower = [factors[self.schedule.rank_of(stage)] for stage in range(len(stages))]
        return price(
            self.schedule,
            Costs(
                [s.forward * f for s, f in zip(stages, slower, strict=True)],
                [s.inputs * f for s, f in zip(stages, slower, strict=True)],
                [s.weights * f for s, f in zip(stages, slower, strict=True)],
                [busy for busy, _ in self.costs.transfers],
                [latency for _, latency in self.costs.transfers],
            ),
        )

    @cached_property
    def complete(self) -> list[float]:
        """By stage, when the slowest replica's gradients are complete."""
        return list(map(max, zip(*(column.complete for column in self.columns), strict=True)))

    # -- the sums of gradients ------------------------------------------------------------------

    def _summed(self, rank: int) -> float:
        """When the gradients of a rank of the pipeline are summed."""
        ready = max(column.finished[rank] for column in self.columns)
        done = ready
        for operation, group, nbytes in sums(self.setting, self.shards[rank]):
            done = max(done, self._buckets(rank, operation, group, nbytes, done))
        done = ready + (done - ready) / self.setting.options.local_steps
        if done > ready:
            self.exposed["dp"] = max(self.exposed.get("dp", 0.0), done - ready)
        return done

    def _buckets(
        self, rank: int, operation: str, group: Ranks, nbytes: float, ready: float
    ) -> float:
        """When all buckets are summed, which become ready during the last backward passes."""
        program, options = self.setting.program, self.setting.options
        if not program.overlap_gradients:
            return ready + self.fabric.collective(operation, group, nbytes)
        count = bucket_count(nbytes, options.bucket_bytes or program.bucket)
        each = count * self.fabric.collective(operation, group, nbytes / count)
        shown = min(count, BUCKETS)
        own = self.schedule.stages_of(rank)
        now, hidden = 0.0, 0.0
        for stage in reversed(own):
            end = self.complete[stage]
            costs = self.costs.stages[stage]
            begin = end - costs.inputs - costs.weights
            for number in range(1, shown + 1):
                final = begin + (end - begin) * number / shown
                start, now = max(now, final), max(now, final) + each / shown / len(own)
                hidden += max(0.0, min(now, ready) - start)
        return max(now, ready) + self.cluster.slowdown.sums * hidden

    # -- where the time goes --------------------------------------------------------------------

    def path(self, rank: int, seconds: float) -> list[Segment]:
        """The critical path to the end of a rank's sums of gradients."""
        column = max(self.columns, key=lambda column: column.finished[rank])
        path = critical_path(column, rank)
        if seconds > column.finished[rank]:
            path.append(Segment("gradients", rank, seconds - column.finished[rank]))
        return path

    def _links(self, seconds: float) -> dict[str, float]:
        """By tier, the part of the step in which the busiest port carries something."""
        busiest: dict[str, float] = {}
        for rank, numbers in enumerate(self.shards):
            own = [self.costs.stages[stage] for stage in self.schedule.stages_of(rank)]
            total = sum(own, Seconds()).times(self.setting.micro_batches).carried
            once = [*sums(self.setting, numbers), *gathers(self.setting, numbers)]
            calls = [self.fabric.cost(*call).carried for call in once]
            for border in self.schedule.stages_of(rank):
                if border < len(self.costs.stages) - 1 and (ends := self.costs.ends(border)):
                    tier = self.cluster.links[self.cluster.tier_of(*ends)]
                    busy = self.setting.micro_batches * self.costs.transfers[border][0]
                    calls.append(((tier.name, busy),))
            for name, busy in merged(total, *calls):
                busiest[name] = max(busiest.get(name, 0.0), busy / seconds)
        return busiest
