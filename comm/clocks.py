"""The clocks of several machines, compared by round trips; and timelines brought to rank 0.

Ranks of one machine have one monotonic clock. Another machine's is compared with rank 0's at the
start and at the end, by the shortest of some round trips, as in Mills, "Internet time
synchronization: the network time protocol" (1991): the error is at most half of its time.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ringlet.comm import timeline
from ringlet.comm.calls.transfer import MAX_TAG
from ringlet.comm.errors import CommError
from ringlet.comm.group import Group

ROUNDS = 32
END_S = 2.0
"""At the end, a rank waits this long for another that may have left otherwise."""


def compare_clocks(world: Group, hosts: Mapping[int, str], timeout: float | None = None) -> None:
    """Let every rank on another machine than rank 0 record how far its clock is behind rank 0's: a
    fact [when, seconds behind, error]. A collective."""
    machines = [hosts.get(rank, "").partition("/")[0] for rank in range(world.size)]
    others = [rank for rank, machine in enumerate(machines) if machine != machines[0]]
    if world.rank == 0:
        for rank in others:
            for _ in range(ROUNDS):
                world.recv(rank, MAX_TAG, timeout=timeout)
                world.send(np.array([time.monotonic()]), rank, MAX_TAG, timeout=timeout)
    elif world.rank in others and timeline.current is not None:
        error, when, behind = min(_round_trip(world, timeout) for _ in range(ROUNDS))
        timeline.current.fact(clock=[when, behind, error])


def _round_trip(world: Group, timeout: float | None) -> tuple[float, float, float]:
    """(error, when, by how much this rank's clock is behind rank 0's)."""
    left = time.monotonic()
    world.send(np.empty(0), 0, MAX_TAG, timeout=timeout)
    there = float(world.recv(0, MAX_TAG, timeout=timeout)[0])
    back = time.monotonic()
    when = (left + back) / 2
    return (back - left) / 2, when, there - when


def finish(world: Group, hosts: Mapping[int, str], failed: bool) -> None:
    """End this rank's timeline; those that rank 0 cannot read go there. A collective, unless
    something has failed: then each rank leaves its files where they are."""
    found = timeline.current
    if found is None:
        return
    try:
        if not failed:
            compare_clocks(world, hosts, END_S)
    except CommError:
        failed = True
    timeline.stop()
    away = [rank for rank in range(world.size) if hosts.get(rank, "") != hosts.get(0, "")]
    if failed or not away:
        return
    try:
        if world.rank in away:
            for path in found.paths:
                world.send(np.frombuffer(path.read_bytes(), np.uint8), 0, MAX_TAG)
                path.unlink()
        for rank in away if world.rank == 0 else ():
            for path in found.paths:
                # Another name: the folder may be the same one on a shared disk.
                copy = Path(f"{path.parent}/received-{rank}{path.suffix}")
                copy.write_bytes(world.recv(rank, MAX_TAG).data)
    except (CommError, OSError):
        return
