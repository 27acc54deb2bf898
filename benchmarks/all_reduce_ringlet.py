"""ringlet's side of all_reduce.py: `registered` or `plain` arrays, then sizes in bytes.

With `copy` every rank copies an array of that size to another of its own, all at the same time.
"""

import json
import sys
from pathlib import Path

import numpy as np

from ringlet import comm

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from all_reduce import measure

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


for nbytes in map(int, sys.argv[2:]):
    microseconds = measure(call(nbytes), world.barrier, nbytes)
    if world.rank == 0:
        print(json.dumps({"bytes": nbytes, "us": microseconds}), flush=True)
