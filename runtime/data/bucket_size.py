"""The size of gradient buckets, chosen from the measured link.

A sum of S bytes in n buckets takes n a + S / b, with the link's latency a and rate b. Nearly all of
it can be hidden behind backward, except the last bucket, which is final only when backward ends,
has a quarter of the others' size, and takes a + S / (4 n b). Together they are smallest for n =
sqrt(S / (4 a b)): buckets of sqrt(4 S a b) bytes. (The same trade-off as in choosing a block for
pipelined messages: Hockney, "The communication challenge for MPP", 1994.) Over a network the
latency counts that a sum has beside computing: whoever sends and adds waits for a core then.
"""

import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from ringlet.comm import Group, Work
from ringlet.nn.autograd.tensor import Array

BUCKET_BYTES = 1 << 22
"""The size where nothing is measured."""

SMALLER = 4
"""By so much the first and the last buckets are smaller."""

SMALLEST, LARGEST = 1 << 16, 1 << 24

PROBE_BYTES = 1 << 20

ROUNDS, BESIDE_ROUNDS = 3, 9

SIDE = 128
"""Rows and columns of matrices whose product takes some tens of microseconds."""


def bucket_bytes_for(group: Group, gradient_bytes: int, same_bits: bool = True) -> int:
    """The bucket size for a group's gradients (a collective), the same on all of its ranks.

    The link is measured where no bit of any sum can depend on the size: between two ranks, and on
    shared memory, where sums go in the order of ranks. A ring adds the parts of a bucket in
    different orders, so among more ranks the size is always BUCKET_BYTES; so it is where the
    caller's own bits depend on it (`same_bits` is False).
    """
    free = same_bits and (group.size == 2 or (group.size > 2 and group.shares_memory))
    if not free or gradient_bytes <= BUCKET_BYTES // SMALLER:
        return BUCKET_BYTES
    return best_bucket_bytes(gradient_bytes, *measure_link(group))


def measure_link(group: Group) -> tuple[float, float]:
    """Measure (latency in seconds, bytes per second) of asynchronous sums, the same on all ranks.

    A collective; it takes a few messages and three sums of PROBE_BYTES.
    """
    small, large = np.zeros(1, np.float32), group.empty(PROBE_BYTES // 4)
    large.fill(0)
    found = [min(_seconds(group, x)) for x in (small, large)]
    if not group.shares_memory:
        found.append(statistics.median(_seconds(group, small, BESIDE_ROUNDS, _compute)))
    agreed = np.array(found)
    group.all_reduce(agreed, op="max", label="seconds of a sum")
    alone, seconds, *beside = agreed.tolist()
    return max(alone, *beside, 0.0), PROBE_BYTES / max(seconds - alone, 1e-9)


def best_bucket_bytes(gradient_bytes: int, latency: float, rate: float) -> int:
    """The power of two nearest to the best size, within bounds."""
    best = math.sqrt(SMALLER * gradient_bytes * latency * rate)
    nearest = 1 << round(math.log2(max(best, 1.0)))
    return min(max(nearest, SMALLEST), LARGEST)


def bucket_count(gradient_bytes: float, bucket_bytes: int) -> int:
    """About how many buckets there are: those at both ends are smaller (`group_from_end`)."""
    whole = gradient_bytes / bucket_bytes
    return max(1, round(min(SMALLER * whole, whole + SMALLER)))


def _seconds(
    group: Group, x: Array, rounds: int = ROUNDS, meanwhile: Callable[[Work], None] | None = None
) -> list[float]:
    """Seconds of a few sums on the progress thread, while this one sleeps or does something."""
    seconds = []
    for _ in range(rounds):
        group.barrier()
        started = time.perf_counter()
        work = group.all_reduce(x, async_op=True, label="measured")
        if meanwhile is not None:
            meanwhile(work)
        work.wait()
        seconds.append(time.perf_counter() - started)
    return seconds


def _compute(work: Work) -> None:
    """Multiply matrices until the work is done."""
    a = np.ones((SIDE, SIDE), np.float32)
    while not work.done():
        np.matmul(a, a)
