"""ringlet's side of all_reduce.py: `registered` or `plain` arrays, then sizes in bytes.

With `copy` every rank copies an array of that size to another of its own, all at the same time.
With `blocking`, `together` and `alone` the array is one of eight neighbours, summed in turn.
"""

import json
import sys
from pathlib import Path

import numpy as np

from ringlet import comm

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from all_reduce import measure

BUCKETS, COUNT = ("blocking", "together", "alone"), 8

world = comm.init()


def call(nbytes):
    """What is to be measured."""
    count = nbytes // 4
    x = world.empty(count, np.float32) if sys.argv[1] == "registered" else np.empty(count, "f4")
    x[...] = 0
    if sys.argv[1] != "copy":
        return lambda: world.all_reduce(x)
    y = x.copy()
    return lambda: (world.barrier(), np.copyto(y, x))


def buckets(nbytes):
    """Sums of neighbouring parts of one registered array."""
    parts = world.empty((COUNT, nbytes // 4), np.float32)
    parts[...] = 0

    def together():
        for work in [world.all_reduce(part, async_op=True) for part in parts]:
            work.wait()

    def alone():
        for part in parts:
            world.all_reduce(part, async_op=True).wait()

    def blocking():
        for part in parts:
            world.all_reduce(part)

    return {"blocking": blocking, "together": together, "alone": alone}[sys.argv[1]]


for nbytes in map(int, sys.argv[2:]):
    if sys.argv[1] in BUCKETS:
        microseconds = measure(buckets(nbytes), world.barrier, nbytes) / COUNT
    else:
        microseconds = measure(call(nbytes), world.barrier, nbytes)
    if world.rank == 0:
        print(json.dumps({"bytes": nbytes, "us": microseconds}), flush=True)
