"""What a size of buckets costs, by the planner's simulation of a step on two ranks."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, NamedTuple

from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import size_text
from ringlet.launcher.lessons.words import whole
from ringlet.launcher.units import seconds_text
from ringlet.runtime.options import Parallelism
from ringlet.runtime.planning.cluster import Cluster, Tier, load_cluster
from ringlet.runtime.planning.costs import ModelCosts
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.footprint import shards
from ringlet.runtime.planning.models import gpt
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.planning.simulate import BUCKETS, simulate

MODEL = gpt("gpt", 6, 384, 6, vocabulary=256, context=256, dropout=False)
SETTING = Setting({"dp": 2}, batch=4, micro_batch=2)

LINKS = ((4e-3, 1e9), (1e-3, 1.25e8), (10e-3, 1.25e9), (50e-3, 1e9), (1.0, 1.25e9))
"""Seconds of a sum of nothing, and bytes per second."""

TOLERANCE = 0.005
"""By which part of backward and sums together they may end late: numbers of buckets are whole."""


class Case(NamedTuple):
    """The arguments of `bucket_bytes`."""

    gradient_bytes: int
    backward: float
    latency: float
    bandwidth: float


class Link:
    """Two ranks and the link between them."""

    def __init__(self, latency: float, bandwidth: float) -> None:
        tier = Tier(ranks=2, latency=latency / 2, bandwidth=bandwidth)  # two rounds
        self.cluster = Cluster(
            load_cluster("laptop").device, devices=1, hosts=2, links=(tier,),
            algorithms="all_reduce=ring",
        )  # fmt: skip
        self.fabric = Fabric(self.cluster)
        stage = ModelCosts(MODEL, self.cluster, SETTING, fabric=self.fabric).stages[0]
        (numbers,) = shards(MODEL, SETTING)
        self.case = Case(4 * round(numbers[0]), stage.inputs + stage.weights, latency, bandwidth)

    def exposed(self, bucket: int) -> float:
        """Seconds after backward until the last bucket is summed."""
        setting = replace(SETTING, options=Parallelism(bucket_bytes=bucket))
        found = simulate(MODEL, self.cluster, setting, fabric=self.fabric)
        return found.exposed.get("dp", 0.0)

    @cached_property
    def best(self) -> int:
        """The bytes of a bucket for which that is least."""
        sizes = [-(-self.case.gradient_bytes // n) for n in range(1, BUCKETS + 1)]
        return min(sizes, key=self.exposed)


@cache
def link_of(latency: float, bandwidth: float) -> Link:
    """Made once: to find its best size takes a while."""
    return Link(latency, bandwidth)


def problem(bucket_bytes: Callable[..., Any]) -> str:
    """What is wrong with the function, beginning with its arguments; "" if nothing is."""
    for figures in LINKS:
        link = link_of(*figures)
        returned, every = bucket_bytes(*link.case), link.case.gradient_bytes
        bucket = whole(returned)
        call = f"({every}, {link.case.backward:.3f}, {figures[0]}, {figures[1]:.4g})"
        if bucket is None:
            return f"{call}: it returned {returned!r:.40}, not a whole number of bytes"
        if not 1 <= bucket <= every:
            return f"{call}: it returned {bucket}; a bucket has 1 to {every} bytes"
        own, least = link.exposed(bucket), link.exposed(link.best)
        if own - least > TOLERANCE * (link.case.backward + least):
            many, few = counted(round(every / bucket), "bucket"), round(every / link.best)
            better = f"with {few} of {size_text(link.best)} {seconds_text(least)} after it"
            return (
                f"{call}: with {many} of {size_text(bucket)} the last sum ends {seconds_text(own)} "
                f"after backward, {better}"
            )
    return ""
