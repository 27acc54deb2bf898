"""What fits this machine, found when ranks meet: how much to stage at once, and whether copies by
the kernel pay. The same on all ranks; no bit of any result depends on it.
"""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ringlet.comm.arrays import address_of, level_2_bytes
from ringlet.comm.errors import CommError
from ringlet.comm.shared.attach import VARIABLE, ProcessMemory, Vanished
from ringlet.comm.shared.lower import STAGE_BYTES

PIECE_BYTES = 64 << 10
"""What is copied at a time: each piece of an area once, while it is in the peer's cache."""

DEAREST = 2.0
"""Sums go through the kernel where its copy takes less than so many times as long as the cache's.
On a Xeon with AVX-512 it takes 1.2 to 1.7 times as long, and plain sums of 1 to 64 MiB take 0.65 to
0.8 of the time of those through staging areas; on an EPYC of the fourth generation 2.9 times, and
sums of 1 MiB take 1.6 of it."""


class Constants(NamedTuple):
    """`stage` bytes of an area are used at once by two ranks; `kernel`: whether sums of long arrays
    are faster through the kernel."""

    stage: int
    kernel: bool


def settle(
    group: Any, staging: Callable[[int, int], Any], processes: ProcessMemory | None
) -> Constants:
    """Find them: a collective over messages, before staging areas are used.

    `staging(rank, area)` is an area. RINGLET_ATTACH=1 takes the kernel without measuring.
    """
    peer, own = (group.rank + 1) % group.size, min(STAGE_BYTES, level_2_bytes() // 2)
    into, theirs = np.zeros(PIECE_BYTES, np.uint8), staging(peer, 0)
    theirs[:: PIECE_BYTES // 16].sum()  # it is mapped before it is timed
    private = np.ones(STAGE_BYTES, np.uint8)
    staging(group.rank, 0)[...] = 1
    said = group.all_gather_object([own, address_of(private)])
    stage, there = min(stage for stage, _ in said), said[peer][1]
    forced = os.environ.get(VARIABLE) == "1"
    if processes is None or forced:
        return Constants(stage, processes is not None)
    read, here = processes.copy, address_of(into)
    try:
        kernel = _fastest(lambda start: read(peer, there + start, here, PIECE_BYTES))
    except (Vanished, CommError):
        kernel = float("inf")
    cache = _fastest(lambda start: np.copyto(into, theirs[start : start + PIECE_BYTES]))
    found = group.all_gather_object([kernel, cache])
    kernel, cache = map(min, zip(*found, strict=True))
    return Constants(stage, kernel < DEAREST * cache)


def _fastest(copy: Callable[[int], Any]) -> float:
    """Seconds of a copy from an offset: the least, as whatever disturbs one only adds to it."""
    seconds = []
    for start in range(0, STAGE_BYTES, PIECE_BYTES):
        begun = time.perf_counter()
        copy(start)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
