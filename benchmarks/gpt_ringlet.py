"""ringlet's side of train_step.py and two_workers.py: the same step, the same JSON line as
peers/gpt_torch.py.

    python gpt_ringlet.py CONFIG STEPS
    ringlet run -n 2 --no-prefix gpt_ringlet.py CONFIG STEPS       # half each, ZeRO 1
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
    rank, ranks, group = 0, 1, None
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from ringlet import comm

        group = comm.init()
        rank, ranks = group.rank, group.size
    model = nn.models.GPT(nn.models.GPTConfig(vocabulary, context, layers, heads, width))
    if ranks > 1:
        from ringlet.runtime.data.bucket_size import bucket_bytes_for
        from ringlet.runtime.data.zero import ZeroOptimizer

        gradients = sum(parameter.data.nbytes for parameter in model.parameters())
        buckets = bucket_bytes_for(group, gradients)
        reducer = ZeroOptimizer(model.named_parameters(), group, buckets)
        flat = reducer.shard
    else:
        reducer, flat = None, nn.FlatParameters(model)
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
            optimizer.step()
        else:
            reducer.begin()
            (model(ids, targets) * (1 / ranks)).backward()
            reducer.finish()
            reducer.update(optimizer)
        times.append((time.perf_counter() - start) * 1e3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median = statistics.median(times[WARM_UP:])
    return rank, {"config": name, "step_ms": median, "min_ms": min(times), "peak_rss_mb": peak}


if __name__ == "__main__":
    number, row = measure(sys.argv[1], int(sys.argv[2]))
    if number == 0:
        print(json.dumps(row))
