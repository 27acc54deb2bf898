"""The links among ranks of this machine, as collectives find them.

Latency, overhead and bandwidth are those on which the simulator's sums of SMALL and LARGE bytes
take as long as they do. What formulas leave out (caches, a link that lets the first bytes pass
faster, threads that want the same cores) differs by collective and size: the tier's `factors` say
how much longer than their formula collectives were measured to take.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ringlet.comm import Group
from ringlet.runtime.planning.cluster import Cluster, Tier
from ringlet.runtime.planning.device import Device
from ringlet.runtime.planning.fabric import Fabric, Ranks
from ringlet.runtime.planning.profile import plain

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
"""How often latency and bandwidth are corrected, one after the other."""

SIZES = tuple(1 << power for power in (10, 12, 14, 16, 18, 20, 21, 22, 23, 24))
"""Bytes of the collectives that are measured, on slow links the first of them."""

CALLS = 4
"""Of each collective and size, at least."""


def rounds(world: Group, until: float, least: int = 3) -> Iterable[int]:
    """As many rounds as there is time for, on rank 0; the same number on all ranks."""
    number = 0
    while True:
        on = np.array([number < least or time.perf_counter() < until], np.float64)
        if not world.broadcast(on, timeout=PATIENCE_S)[0]:
            return
        yield number
        number += 1


def measured_tier(
    world: Group, size: int, here: int, below: Sequence[Tier], seconds: float
) -> Tier:
    """The links among `size` neighbouring ranks, while all such groups use theirs."""
    first = world.rank // size * size
    group = world.split(range(first, first + size))
    assert group is not None
    until = time.perf_counter() + seconds / 2
    small, large = group.empty(SMALL // 4), group.empty(LARGE // 4)
    small.fill(0)
    large.fill(0)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in rounds(world, until, least=8):
        for x, own in zip((small, large), times, strict=True):
            own.append(slowest(world, partial(group.all_reduce, x)))
    measured = [typical(own) for own in times]
    start = replace(FIRST[group.shares_memory], ranks=size, name="sockets")
    if group.shares_memory:
        start = replace(start, name="shared memory")
    elif size > here:
        start = replace(start, name="network", duplex=True, sharing=here)
    tier = fitted(start, measured[0], measured[1], below, here)
    fabric = _fabric(tier, below, here)

    def expected(name: str, nbytes: int) -> float:
        return fabric.collective(name, Ranks(size, 1), nbytes)

    return replace(tier, factors=_factors(world, group, expected, seconds / 2))


def _calls(group: Group) -> dict[str, Callable[[int], Any]]:
    """By name, collectives of so many bytes of registered memory, as the runtime's are."""
    whole, parts = group.empty(SIZES[-1] // 4), group.empty(SIZES[-1] // 4)
    whole.fill(0)
    parts.fill(0)

    def part(nbytes: int) -> Any:
        return parts[: nbytes // 4 // group.size]

    def gathered(nbytes: int) -> Any:
        return whole[: nbytes // 4 // group.size * group.size].reshape(group.size, -1)

    return {
        "all_reduce": lambda nbytes: group.all_reduce(whole[: nbytes // 4]),
        "reduce_scatter": lambda nbytes: group.reduce_scatter(
            gathered(nbytes).reshape(-1), out=part(nbytes)
        ),
        "all_gather": lambda nbytes: group.all_gather(part(nbytes), out=gathered(nbytes)),
    }


def _factors(
    world: Group, group: Group, expected: Callable[[str, int], float], seconds: float
) -> dict[str, tuple[tuple[float, float], ...]]:
    """By how much longer than `expected` collectives take: rows (bytes, factor) by name."""
    calls = _calls(group)
    share = seconds / len(calls) / CALLS / 2
    measured = [
        (name, nbytes)
        for name in calls
        for nbytes in SIZES
        if nbytes <= LARGE or expected(name, nbytes) < share
    ]
    times = {each: list[float]() for each in measured}
    # Each several times in a row: after another one, links and caches are not as they find them.
    for (name, nbytes), own in (*times.items(), *times.items()):
        until = time.perf_counter() + seconds / len(measured) / 2
        for _ in rounds(world, until, least=CALLS):
            own.append(slowest(world, partial(calls[name], nbytes)))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for (name, nbytes), own in times.items():
        found[name].append((float(nbytes), plain(typical(own) / expected(name, nbytes))))
    return {name: tuple(rows) for name, rows in found.items()}


def slowest(world: Group, call: Callable[[], Any]) -> float:
    """Seconds of a call that all ranks make, of the slowest."""
    world.barrier(timeout=PATIENCE_S)
    started = time.perf_counter()
    call()
    took = np.array([time.perf_counter() - started])
    return float(world.all_reduce(took, "max", timeout=PATIENCE_S)[0])


def typical(times: Sequence[float]) -> float:
    """The first quartile: other work on the machine only adds."""
    return statistics.quantiles(times, n=4)[0] if len(times) > 1 else times[0]


def _fabric(tier: Tier, below: Sequence[Tier], here: int) -> Fabric:
    """The ranks of a tier above the tiers `below` of hosts of `here` ranks."""
    here = min(here or tier.ranks, tier.ranks)
    device = Device(1.0, 1.0, {"float32": 1.0})
    return Fabric(Cluster(device, here, tier.ranks // here, (*below, tier)))


def fitted(
    tier: Tier, small: float, large: float, below: Sequence[Tier] = (), here: int = 0
) -> Tier:
    """The link on which sums of SMALL and of LARGE bytes over its ranks take these seconds, above
    the tiers `below` of hosts of `here` ranks."""

    def takes(tier: Tier, nbytes: int) -> float:
        fabric = _fabric(tier, below, here)
        return fabric.collective("all_reduce", Ranks(tier.ranks, 1), nbytes)

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
