"""The engine's own overhead: small operations forward and backward, ringlet against PyTorch eager.

    PEERS=$(bash benchmarks/peers/setup.sh)                 # once; makes the peers' environment
    python benchmarks/engine.py --python "$PEERS/python"

Arrays of four numbers, so that the time is the interpreter's and the engines'. The two run in
turns, each time in a process of its own on one thread; microseconds are medians over the rounds of
each process's fastest of many loops.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from peer_programs import DEFAULT_PEERS, ONE_THREAD

PROGRAM = """
import json, time
import numpy as np
library = {library!r}
data = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
if library == "torch":
    import torch
    torch.set_num_threads(1)
    x, y = (torch.tensor(data, requires_grad=True) for _ in range(2))
    one = torch.ones(4)
else:
    from ringlet.nn import Tensor
    x, y = (Tensor(data.copy(), requires_grad=True) for _ in range(2))
    one = np.ones(4, np.float32)

def chain(x, y):
    z = x
    for _ in range(10):
        z = z * y + x
    return z

CASES = {{
    "x * y": lambda: (x * y).backward(one),
    "x.exp()": lambda: x.exp().backward(one),
    "x.tanh()": lambda: x.tanh().backward(one),
    "x + y": lambda: (x + y).backward(one),
    "(x * y).sum()": lambda: (x * y).sum().backward(),
    "20 operations": lambda: chain(x, y).backward(one),
}}
times = {{}}
for name, run in CASES.items():
    best = 1e9
    for _ in range(30):
        started = time.perf_counter()
        for _ in range(100):
            x.grad = y.grad = None
            run()
        best = min(best, time.perf_counter() - started)
    times[name] = best / 100 * 1e6
print(json.dumps(times))
"""


def run(python, library):
    """One process's microseconds by case."""
    command = [str(python), "-c", PROGRAM.format(library=library)]
    environment = {**os.environ, **ONE_THREAD}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(output.stdout)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--python", default=DEFAULT_PEERS / "python", help="the peers' interpreter")
    options = parser.parse_args()
    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(run(sys.executable, "ringlet"))
        theirs.append(run(options.python, "torch"))
    for name in ours[0]:
        mine, other = (statistics.median(row[name] for row in rows) for rows in (ours, theirs))
        print(
            f"{name:14}  ringlet {mine:6.1f} us   torch {other:6.1f} us   ratio {mine / other:.2f}"
        )


if __name__ == "__main__":
    main()
