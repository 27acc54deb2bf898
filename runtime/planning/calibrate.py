"""`runtime.calibrate`: the description of the machine on which a world's ranks are.

The first rank's operators (profile.py), by how much ranks that compute at the same time slow each
other down, what a sum costs the computing beside it, and the links, as collectives find them.
"""

import os
import platform
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ringlet.comm import Group
from ringlet.comm.machine import cores, processor
from ringlet.runtime.planning.cluster import Cluster, Slowdown, Tier, parse_cluster
from ringlet.runtime.planning.links import (
    LARGE,
    PATIENCE_S,
    measured_tier,
    rounds,
    slowest,
    typical,
)
from ringlet.runtime.planning.profile import Case, plain, profile

SECONDS = 30.0
"""What a calibration takes, about."""

PROFILE = 0.5
"""The part of it for the operators."""

BESIDE = 384
"""Size of the products that are computed beside sums."""


def calibrate(
    world: Group, seconds: float = SECONDS, progress: Callable[[str], None] = lambda what: None
) -> Cluster:
    """Describe this machine, with a worker for each rank of the world (a collective): the same on
    all ranks. Takes about `seconds`; the description is the same kind as one written by hand.

    Each host must have as many ranks as the others; the first one's are measured.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    progress("operators")
    alone = world.split([world.rank])
    assert alone is not None
    device = profile(alone, PROFILE * seconds) if world.rank == 0 else None
    world.broadcast_object(None, timeout=PATIENCE_S)
    rest = (1 - PROFILE) * seconds
    progress("neighbours")
    neighbours = _neighbours(world, alone, here, rest / 3)
    links, sums = list[Tier](), 0.0
    if world.size > 1:
        progress("links")
        groups = [*sizes(here), *([world.size] if world.size > here else [])]
        for size in groups:
            inner = [tier for tier in links if size > here]  # on a host each group has its own
            links.append(measured_tier(world, size, here, inner, rest / 3 / len(groups)))
        progress("sums")
        sums = _sums(world, rest / 3)
    text = ""
    if device is not None:
        device = replace(device, name=processor(), memory=device.memory / here)
        made = Cluster(
            device, here, world.size // here, tuple(links), platform.node() or "here",
            slowdown=Slowdown(neighbours, sums),
        )  # fmt: skip
        text = str(made)
    return parse_cluster(tomllib.loads(world.broadcast_object(text, timeout=PATIENCE_S)))


def sizes(ranks: int) -> list[int]:
    """2, 4, 8, ... as far as they divide the ranks, and all of them; none of one rank."""
    if ranks == 1:
        return []
    found = [2]
    while ranks % (2 * found[-1]) == 0:
        found.append(2 * found[-1])
    kept = [size for size in found if ranks % size == 0 and size < ranks]
    return [*kept, ranks]


def _neighbours(
    world: Group, alone: Group, here: int, seconds: float
) -> tuple[tuple[float, float], ...]:
    """By how much longer workers compute that do so at the same time: the sum of their processors'
    time, as caches and memory are shared; by the clock until the last one has ended where there are
    more of them than cores."""
    case = Case(alone, "small", parts=4)
    case.step()
    at_once = [1, *sizes(here)]
    found: dict[int, list[float]] = {count: [] for count in at_once}
    until = time.perf_counter() + seconds
    for _ in rounds(world, until):
        for count in at_once:
            crowded = count > cores()
            clock = time.perf_counter if crowded else time.thread_time
            world.barrier(timeout=PATIENCE_S)
            started = clock()
            if world.rank < count:
                case.step()
            took = np.array([clock() - started if world.rank < count else 0.0])
            how = "max" if crowded else "sum"
            took = world.all_reduce(took, how, timeout=PATIENCE_S)
            found[count].append(float(took[0]) / (1 if crowded else count))
    single = min(found[1])
    return tuple(
        (float(count), plain(max(1.0, min(times) / single)))
        for count, times in found.items()
        if count > 1
    )


def _sums(world: Group, seconds: float) -> float:
    """Seconds of computing lost for each second of a sum beside it."""
    a, x = np.ones((BESIDE, BESIDE), np.float32), world.empty(LARGE // 4)
    out = np.empty_like(a)
    x.fill(0)

    def summing() -> None:
        world.all_reduce(x, async_op=True).wait()

    once = min(slowest(world, lambda: np.matmul(a, a, out=out)) for _ in range(3))
    sum_once = min(slowest(world, summing) for _ in range(3))
    number = max(1, round(4 * sum_once / once))

    def computing() -> None:
        for _ in range(number):
            np.matmul(a, a, out=out)

    def both() -> None:
        work = world.all_reduce(x, async_op=True)
        computing()
        work.wait()

    times: tuple[list[float], ...] = ([], [], [])
    for _ in rounds(world, time.perf_counter() + seconds, least=4):
        for call, own in zip((computing, summing, both), times, strict=True):
            own.append(slowest(world, call))
    alone, summed, together = map(typical, times)
    return plain(min(4.0, max(0.0, (together - alone) / summed)))
