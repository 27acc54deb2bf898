"""Ring attention: the time and memory of forward and backward on one rank and on several.

    python benchmarks/context.py                            # 4096 positions, 1 and 2 ranks
    python benchmarks/context.py --length 16384 --batch 1 --ranks 1,2,4

One thread for each rank. The configurations run in turns, `--rounds` times each; reported
is the fastest round and the median. `ideal` is the time of one rank's ring attention divided by the
ranks, and the share of it that is reached. `packed` is nn.functional.packed_self_attention,
which keeps the scores for backward, in one process. Memory is the most that NumPy holds beyond
the inputs (tracemalloc), on the rank that holds most; messages in ZeroMQ are not in it.
"""

import argparse
import os
import statistics
import time
import tracemalloc

import numpy as np
from peer_programs import ONE_THREAD

from ringlet.launcher.testing.pool import WorkerPool
from ringlet.nn import Tensor
from ringlet.nn import functional as F
from ringlet.runtime.context.context_parallel import zigzag
from ringlet.runtime.context.ring_attention import RingAttention


def prepare(world, attention, batch, length, heads, width):
    """A function that runs forward and backward once, on this rank's part of the sequence."""
    random = np.random.default_rng(0)
    here = zigzag(length, world.size, world.rank)
    qkv = random.standard_normal((batch, length, 3 * width), np.float32)[:, here]
    grad = random.standard_normal((batch, length, width), np.float32)[:, here]

    def step():
        x = Tensor(qkv, requires_grad=True)
        if attention == "packed":
            y = F.packed_self_attention(x, heads)
        else:
            y = RingAttention(world, heads)(x)
        y.backward(grad)

    return step


def seconds(world, **shape):
    """One step's time, from all ranks' start to the last one's end."""
    step = prepare(world, **shape)
    step()
    world.barrier()
    started = time.perf_counter()
    step()
    world.barrier()
    return time.perf_counter() - started


def memory(world, **shape):
    """MiB that one step holds at most."""
    step = prepare(world, **shape)
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in (("length", 4096), ("batch", 1), ("heads", 4), ("width", 256)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--ranks", default="1,2", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    sizes = [int(size) for size in options.ranks.split(",")]
    if 1 not in sizes:
        parser.error("one rank is what the others are compared to: --ranks 1,2")
    shape = {name: getattr(options, name) for name in ("length", "batch", "heads", "width")}
    runs = [("packed", 1), *(("ring", size) for size in sizes)]
    pools = {size: WorkerPool(size, timeout=120.0) for size in sizes}
    try:
        times = {run: [] for run in runs}
        for _ in range(options.rounds):
            for attention, size in runs:
                found = pools[size].run(seconds, deadline=300.0, attention=attention, **shape)
                times[attention, size].append(max(found))
        report(runs, times, pools, shape)
    finally:
        for pool in pools.values():
            pool.close()


def report(runs, times, pools, shape):
    """One line for each configuration."""
    best = min(times["ring", 1])
    for attention, size in runs:
        row = times[attention, size]
        peak = max(pools[size].run(memory, deadline=300.0, attention=attention, **shape))
        share = f"   {best / size / min(row):4.0%} of ideal" if attention == "ring" else ""
        print(
            f"{attention:6} {size} rank{'s' if size > 1 else ' '}  fastest "
            f"{min(row) * 1e3:7.1f} ms   median {statistics.median(row) * 1e3:7.1f} ms   "
            f"memory {peak:6.1f} MiB{share}",
            flush=True,
        )


if __name__ == "__main__":
    main()
