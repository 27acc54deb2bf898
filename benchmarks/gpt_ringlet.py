"""ringlet's side of train_step.py and two_workers.py: the same step, the same JSON line as
peers/gpt_torch.py.

    python gpt_ringlet.py CONFIG STEPS
    ringlet run -n 2 --no-prefix gpt_ringlet.py CONFIG STEPS       # data parallel, half each
"""

import json
import os
import resource
import statistics
import sys
import time

import numpy as np
from configs import CONFIGS

from ringlet import nn

WARM_UP = 3


def measure(name, steps):
    """Median and fastest step of one config."""
    vocabulary, context, width, heads, layers, batch = CONFIGS[name]
    rank, ranks, allocate, reducer = 0, 1, None, None
    if "RANK" in os.environ:
        from ringlet import comm
        from ringlet.runtime.data_parallel import DataParallel

        world = comm.init()
        rank, ranks, allocate = world.rank, world.size, world.empty
    model = nn.models.GPT(nn.models.GPTConfig(vocabulary, context, layers, heads, width))
    flat = nn.FlatParameters(model, allocate)
    if ranks > 1:
        reducer = DataParallel(flat, world)
    optimizer = nn.optim.AdamW(flat, 3e-4, weight_decay=0.01)
    ids, targets = np.random.default_rng(0).integers(
        vocabulary, size=(2, max(1, batch // ranks), context)
    )
    times = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        if reducer is None:
            flat.zero_grad()
            model(ids, targets).backward()
        else:
            reducer.begin()
            (model(ids, targets) * (1 / ranks)).backward()
            reducer.finish()
        optimizer.step()
        times.append((time.perf_counter() - start) * 1e3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median = statistics.median(times[WARM_UP:])
    return rank, {"config": name, "step_ms": median, "min_ms": min(times), "peak_rss_mb": peak}


if __name__ == "__main__":
    number, row = measure(sys.argv[1], int(sys.argv[2]))
    if number == 0:
        print(json.dumps(row))
