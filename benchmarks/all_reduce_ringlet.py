"""ringlet's side of all_reduce.py: `registered` or `plain` arrays, then sizes in bytes."""

import json
import sys
from pathlib import Path

import numpy as np

from ringlet import comm

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from all_reduce import measure

world = comm.init()
for nbytes in map(int, sys.argv[2:]):
    make = world.empty if sys.argv[1] == "registered" else np.empty
    x = make(nbytes // 4, np.float32)
    x[...] = 0
    microseconds = measure(lambda x=x: world.all_reduce(x), world.barrier, nbytes)
    if world.rank == 0:
        print(json.dumps({"bytes": nbytes, "us": microseconds}), flush=True)
