"""The size of gradient buckets, chosen from the measured link.

A sum of S bytes in n buckets takes n a + S / b, with the link's latency a and rate b. Nearly all of
it can be hidden behind backward, except the last bucket, which is final only when backward ends
and takes a + S / (n b). Together they are smallest for n = sqrt(S / (a b)): buckets of sqrt(S a b)
bytes. (The same trade-off as in choosing a block for pipelined messages: Hockney, "The
communication challenge for MPP", 1994.)
"""

import math
import time

import numpy as np

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array

BUCKET_BYTES = 1 << 20
"""The size where nothing is measured."""

SMALLEST, LARGEST = 1 << 16, 1 << 24

PROBE_BYTES = 1 << 20

ROUNDS = 3


def bucket_bytes_for(group: Group, gradient_bytes: int, same_bits: bool = True) -> int:
    """The bucket size for a group's gradients (a collective), the same on all of its ranks.

    The link is measured where no bit of any sum can depend on the size: between two ranks, and on
    shared memory, where sums go in the order of ranks. A ring adds the parts of a bucket in
    different orders, so among more ranks the size is always BUCKET_BYTES; so it is where the
    caller's own bits depend on it (`same_bits` is False).
    """
    free = same_bits and (group.size == 2 or (group.size > 2 and group.shares_memory))
    if not free or gradient_bytes <= BUCKET_BYTES:
        return BUCKET_BYTES
    return best_bucket_bytes(gradient_bytes, *measure_link(group))


def measure_link(group: Group) -> tuple[float, float]:
    """Measure (latency in seconds, bytes per second) of asynchronous sums, the same on all ranks.

    A collective; it takes a few messages and three sums of PROBE_BYTES.
    """
    small, large = np.zeros(1, np.float32), group.empty(PROBE_BYTES // 4)
    large.fill(0)
    found = np.array([_fastest(group, small), _fastest(group, large)])
    group.all_reduce(found, op="max", label="seconds of a sum")
    latency, seconds = found.tolist()
    return latency, PROBE_BYTES / max(seconds - latency, 1e-9)


def best_bucket_bytes(gradient_bytes: int, latency: float, rate: float) -> int:
    """The power of two nearest to the best size, within bounds."""
    best = math.sqrt(gradient_bytes * latency * rate)
    nearest = 1 << round(math.log2(max(best, 1.0)))
    return min(max(nearest, SMALLEST), LARGEST)


def _fastest(group: Group, x: Array) -> float:
    """Seconds of the fastest of a few sums on the progress thread: noise only adds to them."""
    seconds = []
    for _ in range(ROUNDS):
        group.barrier()
        started = time.perf_counter()
        group.all_reduce(x, async_op=True, label="measured").wait()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
