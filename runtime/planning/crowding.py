"""Pipelines on hosts with more ranks than cores: a rank that waits lends its core to the others.

How much ranks slow each other down depends on how many compute at the moment, so a pipeline with
bubbles suffers less than a mesh without. Its actions are followed in time, all ranks of a host that
compute sharing the host alike, and how much longer they take on the whole becomes one factor.
"""

from functools import lru_cache

from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.costs import UNIT
from ringlet.runtime.pipeline.price import places, price
from ringlet.runtime.pipeline.schedules import make_schedule
from ringlet.runtime.planning.cluster import Cluster, Slowdown
from ringlet.runtime.planning.setting import Setting

ACTIONS = 10_000
"""In pipelines with more micro-batches times stages nearly all time has all ranks at work."""


def crowding(setting: Setting, cluster: Cluster) -> float:
    """By how much longer a step computes than a rank that has its host for itself."""
    slowdown, devices = cluster.slowdown, cluster.devices
    every = slowdown.beside(min(setting.ranks, devices))
    if every == 1.0 or setting.mesh["pp"] == 1:
        return every
    stride, long = setting.strides["pp"], setting.stages * setting.micro_batches > ACTIONS
    if stride >= devices or long:
        return every
    options = setting.options
    pipeline = options.schedule, setting.mesh["pp"], setting.micro_batches, options.chunks
    return _of_pipeline(*pipeline, stride, devices, slowdown)


@lru_cache(maxsize=1024)
def _of_pipeline(
    name: str, ranks: int, micro_batches: int, chunks: int,
    stride: int, devices: int, slowdown: Slowdown,
) -> float:  # fmt: skip
    """The same: `stride` neighbouring ranks have each stage, a host has `devices`."""
    schedule = make_schedule(name, ranks, micro_batches, chunks)
    return _Shared(schedule, stride, devices, slowdown).makespan() / price(schedule).makespan


class _Shared:
    """A pipeline in time order. Every action takes UNIT, messages take nothing."""

    def __init__(
        self, schedule: PipelineSchedule, stride: int, devices: int, slowdown: Slowdown
    ) -> None:
        self.schedule, self.stride, self.devices = schedule, stride, devices
        self.slowdown = slowdown
        self.left = [list(reversed(actions)) for actions in schedule.compute]
        self.running: dict[int, float] = {}
        self.made: set[int] = set()

    def makespan(self) -> float:
        """When the last action ends."""
        now = 0.0
        while self._start():
            speeds = self._speeds()
            step = min(self.running[rank] / speed for rank, speed in speeds.items())
            now += step
            for rank, speed in speeds.items():
                self.running[rank] -= step * speed
                if self.running[rank] < 1e-9:
                    self._end(rank)
        return now

    def _start(self) -> bool:
        """Begin what can begin; whether any rank computes."""
        for rank, actions in enumerate(self.left):
            if rank not in self.running and actions and self._ready(actions[-1]):
                self.running[rank] = float(UNIT.of(actions[-1]))
        return bool(self.running)

    def _ready(self, action: Action) -> bool:
        needs, _ = places(self.schedule, action)
        return needs is None or needs in self.made

    def _end(self, rank: int) -> None:
        del self.running[rank]
        _, makes = places(self.schedule, self.left[rank].pop())
        if makes is not None:
            self.made.add(makes)

    def _speeds(self) -> dict[int, float]:
        """How fast each rank computes, beside those of its host that do as well."""
        host = {rank: rank * self.stride // self.devices for rank in self.running}
        there = list(host.values())
        return {
            rank: 1 / self.slowdown.beside(there.count(own) * self.stride)
            for rank, own in host.items()
        }
