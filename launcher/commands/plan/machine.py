"""This machine, described for the planner."""

import contextlib
from dataclasses import replace
from pathlib import Path

from ringlet.comm.machine import cores
from ringlet.launcher.commands.calibrate import cache_file, calibrated, remembered
from ringlet.launcher.errors import UserError
from ringlet.launcher.supervisor.output import Screen
from ringlet.runtime.planning.cluster import Cluster, Slowdown, load_cluster

STAND_IN = "laptop"

MOST_WORKERS = 1024
"""More do not run on one machine."""


def machine(workers: int, transport: str = "auto", measure: bool = False) -> Cluster:
    """This machine with so many workers on it: as `ringlet calibrate` has measured it, or does now
    with `measure`. Says so if its figures are not its own. Raises UserError for more workers than
    one machine runs."""
    if workers > MOST_WORKERS:
        raise UserError(
            f"{workers} workers on this machine; at most {MOST_WORKERS} are planned: for more, "
            "describe the cluster with --cluster"
        )
    if measure:
        return calibrated(workers, transport)
    if known := remembered(cache_file(workers, transport)):
        return known
    Screen().say(
        f"this machine is not calibrated for {workers} workers (ringlet calibrate -n {workers} "
        f"does it): its speed is taken from the description {STAND_IN!r}"
    )
    found = load_cluster(STAND_IN)
    devices = max(workers, cores())
    crowded = found.slowdown.beside(workers) * max(1.0, workers / cores())
    return replace(
        found,
        name="this machine",
        devices=devices,
        device=replace(found.device, memory=available() / workers or found.device.memory),
        links=tuple(replace(tier, ranks=max(2, devices)) for tier in found.links),
        slowdown=Slowdown(((1, 1.0), (max(2, workers), crowded)), found.slowdown.sums),
    )


def available() -> float:
    """Bytes of memory that programs can have without swapping; 0 if the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * float(line.split()[1])
    return 0.0
