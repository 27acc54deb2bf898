"""All-reduce of float32 sums: ringlet against Gloo and Open MPI, side by side.

    PEERS=$(bash benchmarks/peers/setup.sh)                 # once; makes the peers' environment
    python benchmarks/all_reduce.py --peers "$PEERS" --ranks 2
    python benchmarks/all_reduce.py --asynchronous         # buckets, beside blocking calls

All run in turns, `--rounds` times. Reported is the median over the rounds of each run's median on
rank 0, in microseconds, and how many times faster ringlet is. On one host every rank
also copies an array of the same size, all at once: an all-reduce has to read and write at least as
much, so the share of the copy's bandwidth says how near it is to what the memory allows.

`--asynchronous` compares with blocking calls on eight neighbouring parts of one registered array,
as buckets of gradients are: all issued and then waited for, and each waited for at once. The times
are those of one bucket.
"""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
from pathlib import Path

from peer_programs import DEFAULT_PEERS, MPI_AS_ROOT, ONE_THREAD

HERE = Path(__file__).resolve().parent
SIZES = (4, 1 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 26)
BUCKETS = (1 << 16, 1 << 18, 1 << 20, 1 << 22)
COPY = "copy"
SHARED_FROM = 1 << 20  # below, a copy is mostly the barrier before it
KEYS = {
    "clear": ["--unset=RINGLET_KEY"],
    "sealed": [],
    "curve": ["RINGLET_SEALED=0"],
}
ENVIRONMENT = {**ONE_THREAD, **MPI_AS_ROOT}


def commands(options):
    """name -> command; the sizes are its last arguments."""
    ringlet = [
        sys.executable, "-c", "from ringlet.launcher.cli import main; main()", "run",
        "-n", str(options.ranks),
    ]  # fmt: skip
    worker, peer = str(HERE / "all_reduce_ringlet.py"), str(HERE / "peers/all_reduce.py")
    mpirun = [f"{options.peers}/mpirun", "--oversubscribe"]
    ranks, python = ["-n", str(options.ranks)], f"{options.peers}/python"
    forbid = ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self"]
    torchrun = [f"{options.peers}/torchrun", "--nproc_per_node", str(options.ranks)]
    if options.key:
        return {
            name: ["env", *settings, *ringlet, "--transport", "tcp", worker, "plain"]
            for name, settings in KEYS.items()
        }
    if options.asynchronous:
        return {
            "blocking": [*ringlet, worker, "blocking"],
            "issued together": [*ringlet, worker, "together"],
            "one by one": [*ringlet, worker, "alone"],
        }
    if options.tcp:
        return {
            "ringlet tcp": [*ringlet, "--transport", "tcp", worker, "plain"],
            "gloo": [*torchrun, peer, "gloo"],
            "openmpi tcp": [*mpirun, *forbid, *ranks, python, peer, "openmpi"],
        }
    return {
        "ringlet registered": [*ringlet, worker, "registered"],
        "ringlet plain": [*ringlet, worker, "plain"],
        "gloo": [*torchrun, peer, "gloo"],
        "openmpi": [*mpirun, *ranks, python, peer, "openmpi"],
        COPY: [*ringlet, worker, "copy"],
    }


def run(command, sizes):
    """bytes -> microseconds."""
    done = subprocess.run(
        [*command, *map(str, sizes)],
        env={**os.environ, **ENVIRONMENT},
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [line[line.index("{") :] for line in done.stdout.splitlines() if "{" in line]
    return {row["bytes"]: row["us"] for row in map(json.loads, lines)}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--tcp", action="store_true", help="over the loopback's TCP")
    parser.add_argument(
        "--key", action="store_true", help="ringlet over TCP in the clear, sealed, and with CURVE"
    )
    parser.add_argument("--asynchronous", action="store_true", help="buckets, without the peers")
    parser.add_argument("--sizes", help=f"default: {','.join(map(str, SIZES))}, or of buckets")
    parser.add_argument("--peers", default=DEFAULT_PEERS, help="the folder of the peers' programs")
    parser.add_argument("--json", action="store_true", help="one JSON line for each size")
    options = parser.parse_args()
    if options.key:
        os.environ.setdefault("RINGLET_KEY", secrets.token_hex(32))
    elif not options.asynchronous and not Path(options.peers, "python").exists():
        parser.error(f"there is no python in {options.peers}; run benchmarks/peers/setup.sh first")
    usual = BUCKETS if options.asynchronous else SIZES
    sizes = [int(text) for text in options.sizes.split(",")] if options.sizes else usual
    results = {name: [] for name in commands(options)}
    for _ in range(options.rounds):
        for name, command in commands(options).items():
            results[name].append(run(command, sizes))
    for nbytes in sizes:
        row = {name: statistics.median(r[nbytes] for r in rows) for name, rows in results.items()}
        first = next(iter(row.values()))
        if options.json:
            print(json.dumps({"bytes": nbytes, **row}), flush=True)
        else:
            copy = row.pop(COPY, None)
            parts = [f"{name} {us:10.1f} us ({us / first:5.2f}x)" for name, us in row.items()]
            if copy is not None and nbytes >= SHARED_FROM:
                parts.append(f"{copy / first:.0%} of a copy's bandwidth")
            print(f"{nbytes:>9} B   " + "   ".join(parts), flush=True)


if __name__ == "__main__":
    main()
