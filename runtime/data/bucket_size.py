"""The size of gradient buckets, chosen from the measured link.

Of S bytes in buckets of B, each costs a seconds beside its bytes, S a / B together. On one host
nearly all of the rest is hidden behind backward, except the last bucket, which is final only when
backward ends and has a quarter of the others' size: at a rate of b it takes B / 4 b. A network is
hardly faster than backward. There a whole B / b is lost: the link has nothing to do until the first
bucket, and then each larger one, is whole. S a / B + B k / b is smallest for B = sqrt(S a b / k).
(The same trade-off as in choosing a block for pipelined messages: Hockney, "The communication
challenge for MPP", 1994.) Over a network two buckets are on their way at once, which hides the
latency of a sum; a is the processor's time that it takes from computing.
"""

import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array

BUCKET_BYTES = 1 << 22
"""The size where nothing is measured."""

SMALLER = 4
"""By so much the first and the last buckets are smaller."""

SMALLEST, LARGEST = 1 << 16, 1 << 24

PROBE_BYTES = 1 << 20

ROUNDS, PROCESSOR_ROUNDS = 3, 9


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
    lost = 1 / SMALLER if group.shares_memory else 1
    return best_bucket_bytes(gradient_bytes, *measure_link(group), lost)


def measure_link(group: Group) -> tuple[float, float]:
    """Measure (seconds, bytes per second) of asynchronous sums, the same on all ranks: what one
    takes beside its bytes, over a network of the processor.

    A collective; it takes a few messages and three sums of PROBE_BYTES.
    """
    small, large = np.zeros(1, np.float32), group.empty(PROBE_BYTES // 4)
    large.fill(0)
    found = [min(_seconds(group, x)) for x in (small, large)]
    if not group.shares_memory:
        found.append(statistics.median(_seconds(group, small, PROCESSOR_ROUNDS, time.process_time)))
    agreed = np.array(found)
    group.all_reduce(agreed, op="max", label="seconds of a sum")
    latency, seconds, *processor = agreed.tolist()
    return processor[0] if processor else latency, PROBE_BYTES / max(seconds - latency, 1e-9)


def best_bucket_bytes(gradient_bytes: int, seconds: float, rate: float, lost: float) -> int:
    """The power of two nearest to the best size, within bounds. A sum takes `seconds` beside its
    bytes, and of a bucket's time at the `rate` the `lost` part is not hidden."""
    best = math.sqrt(gradient_bytes * seconds * rate / lost)
    nearest = 1 << round(math.log2(max(best, 1.0)))
    return min(max(nearest, SMALLEST), LARGEST)


def bucket_count(gradient_bytes: float, bucket_bytes: int) -> int:
    """About how many buckets there are: those at both ends are smaller (`group_from_end`)."""
    whole = gradient_bytes / bucket_bytes
    return max(1, round(min(SMALLER * whole, whole + SMALLER)))


def _seconds(
    group: Group,
    x: Array,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of a few sums, by the clock."""
    seconds = []
    for _ in range(rounds):
        group.barrier()
        started = clock()
        group.all_reduce(x, async_op=True, label="measured").wait()
        seconds.append(clock() - started)
    return seconds
