"""`runtime.calibrate`: the description of the machine on which a world's ranks are.

The first rank's operators (profile.py), by how much ranks that compute at the same time slow each
other down, what a sum costs the computing beside it, and the links, as collectives find them.
"""

import os
import platform
import statistics
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.comm import Group
from ringlet.runtime.planning.cluster import Cluster, Slowdown, Tier, parse_cluster
from ringlet.runtime.planning.device import Device
from ringlet.runtime.planning.fabric import Fabric, Ranks
from ringlet.runtime.planning.profile import Case, plain, profile

SECONDS = 30.0
"""What a calibration takes, about."""

PROFILE = 0.5
"""The part of it for the operators."""

PATIENCE_S = 600.0
"""For how long ranks wait for the one that measures."""

SMALL, LARGE = 64, 1 << 20
"""Bytes of the sums that tell latency and bandwidth: of a norm, and of a bucket."""

FIRST = {
    True: Tier(2, 5e-6, 4e9, duplex=False, memory=True),
    False: Tier(2, 4e-5, 2.4e9, 6e-5, duplex=False),
}
"""Where the search for a link's figures begins: memory, messages."""

FITS = 8

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
            links.append(_tier(world, size, here, inner, rest / 3 / len(groups)))
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


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def sizes(ranks: int) -> list[int]:
    """2, 4, 8, ... as far as they divide the ranks, and all of them; none of one rank."""
    if ranks == 1:
        return []
    found = [2]
    while ranks % (2 * found[-1]) == 0:
        found.append(2 * found[-1])
    kept = [size for size in found if ranks % size == 0 and size < ranks]
    return [*kept, ranks]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _neighbours(
    world: Group, alone: Group, here: int, seconds: float
) -> tuple[tuple[float, float], ...]:
    """By how much longer workers compute that do so at the same time: by the processor's time, as
    caches and memory are shared, and by the clock where there are more of them than cores."""
    case = Case(alone, "small", parts=4)
    case.step()
    at_once = [1, *sizes(here)]
    found: dict[int, list[float]] = {count: [] for count in at_once}
    until = time.perf_counter() + seconds
    for _ in _rounds(world, until):
        for count in at_once:
            world.barrier(timeout=PATIENCE_S)
            started = time.thread_time()
            if world.rank < count:
                case.step()
            took = np.array([time.thread_time() - started])
            found[count].append(float(world.all_reduce(took, timeout=PATIENCE_S)[0]) / count)
    single = min(found[1])
    return tuple(
        (float(count), plain(max(1.0, min(times) / single) * max(1.0, count / cores())))
        for count, times in found.items()
        if count > 1
    )


def _rounds(world: Group, until: float, least: int = 3) -> Iterable[int]:
    """As many rounds as there is time for, on rank 0; the same number on all ranks."""
    number = 0
    while True:
        on = np.array([number < least or time.perf_counter() < until], np.float64)
        if not world.broadcast(on, timeout=PATIENCE_S)[0]:
            return
        yield number
        number += 1


def _tier(world: Group, size: int, here: int, below: Sequence[Tier], seconds: float) -> Tier:
    """The links among `size` neighbouring ranks, while all such groups use theirs."""
    first = world.rank // size * size
    group = world.split(range(first, first + size))
    assert group is not None
    until = time.perf_counter() + seconds
    small, large = group.empty(SMALL // 4), group.empty(LARGE // 4)
    small.fill(0)
    large.fill(0)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in _rounds(world, until, least=8):
        for x, own in zip((small, large), times, strict=True):
            own.append(_slowest(world, partial(group.all_reduce, x)))
    measured = [_typical(own) for own in times]
    start = replace(FIRST[group.shares_memory], ranks=size, name="sockets")
    if group.shares_memory:
        start = replace(start, name="shared memory")
    elif size > here:
        start = replace(start, name="network", duplex=True, sharing=here)
    return fitted(start, measured[0], measured[1], below, here)


def _slowest(world: Group, call: Callable[[], Any]) -> float:
    """Seconds of a call that all ranks make, of the slowest."""
    world.barrier(timeout=PATIENCE_S)
    started = time.perf_counter()
    call()
    took = np.array([time.perf_counter() - started])
    return float(world.all_reduce(took, "max", timeout=PATIENCE_S)[0])


def _typical(times: Sequence[float]) -> float:
    """The first quartile: other work on the machine only adds."""
    return statistics.quantiles(times, n=4)[0] if len(times) > 1 else times[0]


def fitted(
    tier: Tier, small: float, large: float, below: Sequence[Tier] = (), here: int = 0
) -> Tier:
    """The link on which sums of SMALL and of LARGE bytes over its ranks take these seconds, above
    the tiers `below` of hosts of `here` ranks."""
    here = min(here or tier.ranks, tier.ranks)

    def takes(tier: Tier, nbytes: int) -> float:
        device = Device(1.0, 1.0, {"float32": 1.0})
        cluster = Cluster(device, here, tier.ranks // here, (*below, tier))
        return Fabric(cluster).collective("all_reduce", Ranks(tier.ranks, 1), nbytes)

    for _ in range(FITS):
        there = small / takes(tier, SMALL)
        tier = replace(tier, latency=tier.latency * there, overhead=tier.overhead * there)
        fixed = takes(replace(tier, bandwidth=1e18), LARGE)
        left = max(large - fixed, large / 10)
        tier = replace(tier, bandwidth=tier.bandwidth * (takes(tier, LARGE) - fixed) / left)
    return replace(
        tier, latency=plain(tier.latency), overhead=plain(tier.overhead),
        bandwidth=plain(tier.bandwidth),
    )  # fmt: skip


def _sums(world: Group, seconds: float) -> float:
    """Seconds of computing lost for each second of a sum beside it."""
    a, x = np.ones((BESIDE, BESIDE), np.float32), world.empty(LARGE // 4)
    out = np.empty_like(a)
    x.fill(0)
    once = min(_slowest(world, lambda: np.matmul(a, a, out=out)) for _ in range(3))
    sum_once = min(_slowest(world, lambda: world.all_reduce(x, async_op=True).wait())
                   for _ in range(3))  # fmt: skip
    number = max(1, round(4 * sum_once / once))

    def computing() -> None:
        for _ in range(number):
            np.matmul(a, a, out=out)

    def summing() -> None:
        world.all_reduce(x, async_op=True).wait()

    def both() -> None:
        work = world.all_reduce(x, async_op=True)
        computing()
        work.wait()

    times: tuple[list[float], ...] = ([], [], [])
    for _ in _rounds(world, time.perf_counter() + seconds, least=4):
        for call, own in zip((computing, summing, both), times, strict=True):
            own.append(_slowest(world, call))
    alone, summed, together = map(_typical, times)
    return plain(min(4.0, max(0.0, (together - alone) / summed)))
