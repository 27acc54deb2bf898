"""Failures and restarts: how much of a job's time is work that counts, and how often to save.

A job stops when any device, host or link fails, and goes on from its last checkpoint. With a mean
time M between failures, a checkpoint of C seconds after every t seconds of work and a restart of R,
a stretch of work takes M e^(R/M) (e^((t + C)/M) - 1) seconds on average (Daly, "A higher order
estimate of the optimum checkpoint interval for restart dumps", 2006). Young's "A first order
approximation to the optimum checkpoint interval" (1974) is sqrt(2 C M).
"""

import heapq
import math
import random
from dataclasses import dataclass

from ringlet.runtime.planning.cluster import Cluster
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.models import Model
from ringlet.runtime.planning.setting import Setting

HOUR = 3600.0


@dataclass(frozen=True)
class Goodput:
    """What failures cost a job. All times are in seconds."""

    interval: float
    """The best time of work between two checkpoints."""

    goodput: float
    """The part of the job's time that is work which counts, with that interval."""

    young: float
    """Young's interval."""

    daly: float
    """Daly's interval."""

    between_failures: float
    checkpoint: float
    """Seconds to write one."""


def between_failures(cluster: Cluster, ranks: int) -> float:
    """Mean seconds between failures of a job of so many ranks; raises ClusterError."""
    return 1 / sum(_rates(cluster, ranks).values())


def _rates(cluster: Cluster, ranks: int) -> dict[str, float]:
    """Failures per second of a job, by what fails."""
    if cluster.failures is None:
        raise ClusterError(f"failures is missing of {cluster.name or 'the cluster'}")
    hosts = -(-ranks // cluster.devices)
    found = cluster.failures
    parts = {
        "device": (ranks, found.device_hours),
        "host": (hosts, found.host_hours),
        "link": (ranks, found.link_hours),
    }
    return {what: count / (hours * HOUR) for what, (count, hours) in parts.items() if hours}


def checkpoint_seconds(model: Model, cluster: Cluster, setting: Setting) -> float:
    """Seconds to write parameters and optimizer state."""
    if cluster.failures is None or not cluster.failures.storage:
        return 0.0
    precision = setting.program.precision
    return model.parameters * (precision.parameter + precision.optimizer) / cluster.failures.storage


def useful(interval: float, checkpoint: float, restart: float, mean: float) -> float:
    """The part of the time that counts, with a checkpoint after each interval: Daly's formula."""
    exponent = (interval + checkpoint) / mean
    if exponent > 500:
        return 0.0
    return interval / (mean * math.exp(restart / mean) * math.expm1(exponent))


def goodput(model: Model, cluster: Cluster, setting: Setting, step: float) -> Goodput:
    """The best interval, in whole steps of `step` seconds, and what is left of the time."""
    mean = between_failures(cluster, setting.ranks)
    assert cluster.failures is not None, "between_failures has refused it"
    saving, restart = checkpoint_seconds(model, cluster, setting), cluster.failures.restart

    def gained(steps: int) -> float:
        return useful(steps * step, saving, restart, mean)

    low, high = 1, max(2, math.ceil(4 * mean / step))
    while high - low > 2:  # it rises to one maximum and falls
        third = (high - low) // 3
        if gained(low + third) < gained(high - third):
            low += third
        else:
            high -= third
    best = max(range(low, high + 1), key=gained)
    ratio = math.sqrt(saving / (2 * mean))
    young = math.sqrt(2 * saving * mean)
    daly = young * (1 + ratio / 3 + ratio * ratio / 9) - saving if saving < 2 * mean else mean
    return Goodput(best * step, gained(best), young, daly, mean, saving)


def simulate_failures(
    cluster: Cluster, ranks: int, work: float, interval: float, checkpoint: float, seed: int = 0
) -> tuple[float, dict[str, int]]:
    """Run a job of `work` seconds; returns its seconds, and how often what failed.

    Each kind of part fails at random times (exponential, as Poisson processes are). What was done
    since the last checkpoint is lost; while the job restarts it may fail again.
    """
    rates = _rates(cluster, ranks)
    assert cluster.failures is not None, "_rates has refused it"
    draw = random.Random(seed)
    events = [(draw.expovariate(rate), what) for what, rate in rates.items()]
    heapq.heapify(events)
    now = done = 0.0
    failed = dict.fromkeys(rates, 0)
    while done < work:
        part = min(interval, work - done)
        end = now + part + (checkpoint if done + part < work else 0.0)
        if events[0][0] >= end:
            now, done = end, done + part
            continue
        while events[0][0] < end:
            time, what = events[0]
            failed[what] += 1
            heapq.heapreplace(events, (time + draw.expovariate(rates[what]), what))
            end = now = time + cluster.failures.restart
    return now, failed
