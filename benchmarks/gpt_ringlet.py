"""ringlet's side of train_step.py: the same step, the same JSON line as peers/gpt_torch.py."""

import json
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
    model = nn.models.GPT(nn.models.GPTConfig(vocabulary, context, layers, heads, width))
    flat = nn.FlatParameters(model)
    optimizer = nn.optim.AdamW(flat, 3e-4, weight_decay=0.01)
    ids, targets = np.random.default_rng(0).integers(vocabulary, size=(2, batch, context))
    times = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        flat.zero_grad()
        model(ids, targets).backward()
        optimizer.step()
        times.append((time.perf_counter() - start) * 1e3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median = statistics.median(times[WARM_UP:])
    return {"config": name, "step_ms": median, "min_ms": min(times), "peak_rss_mb": peak}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
