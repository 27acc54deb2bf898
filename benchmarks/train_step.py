"""One training step of a GPT on one thread: ringlet against PyTorch eager, side by side.

    PEERS=$(bash benchmarks/peers/setup.sh)                 # once; makes the peers' environment
    python benchmarks/train_step.py --python "$PEERS/python"

The two run in turns, each time in a process of its own (ringlet's by `ringlet run -n 1`),
`--rounds` times for each config. Reported is the median over the rounds of each process's median
step, and the ratio of the two. Both have the allocator's settings that `ringlet run` makes; with
`--own-allocator` PyTorch runs as it comes as well, for where page faults are dear, as in a virtual
machine, it takes up to 1.9 times as long then.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

from configs import CONFIGS
from peer_programs import DEFAULT_PEERS, ONE_THREAD

from ringlet.launcher.supervisor.environment import ALLOCATOR
from ringlet.nn import mkl

HERE = Path(__file__).resolve().parent


RINGLET = (
    sys.executable, "-c", "from ringlet.launcher.cli import main; main()",
    "run", "-n", "1", "--no-prefix",
)  # fmt: skip


TORCH = HERE / "peers/gpt_torch.py"


def run(python, program, config, steps, allocator=ALLOCATOR):
    """One process's row."""
    command = [*map(str, python), str(program), config, str(steps)]
    environment = {**os.environ, **ONE_THREAD, **allocator}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(output.stdout)


def compare(config, options):
    """All sides of one config."""
    ours, theirs, own = [], [], []
    for _ in range(options.rounds):
        ours.append(run(RINGLET, HERE / "gpt_ringlet.py", config, options.steps))
        theirs.append(run([options.python], TORCH, config, options.steps))
        if options.own_allocator:
            own.append(run([options.python], TORCH, config, options.steps, {}))
    row = {"config": config}
    sides = {"ringlet": ours, "torch": theirs, **({"own": own} if own else {})}
    for name, rows in sides.items():
        row[f"{name}_ms"] = statistics.median(each["step_ms"] for each in rows)
        row[f"{name}_rss_mb"] = statistics.median(each["peak_rss_mb"] for each in rows)
    row["ratio"] = row["ringlet_ms"] / row["torch_ms"]
    row["fastest_ratio"] = min(r["min_ms"] for r in ours) / min(r["min_ms"] for r in theirs)
    return row


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--configs", default="nano,small,baby", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--steps", type=int, default=10, help="for each process; default: %(default)s"
    )
    parser.add_argument("--python", default=DEFAULT_PEERS / "python", help="the peers' interpreter")
    parser.add_argument(
        "--own-allocator", action="store_true", help="measure PyTorch as it comes as well"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line for each config")
    options = parser.parse_args()
    names = options.configs.split(",")
    unknown = set(names) - set(CONFIGS)
    if unknown:
        parser.error(f"unknown configs {sorted(unknown)}; there are {', '.join(CONFIGS)}")
    if not Path(options.python).exists():
        parser.error(f"there is no {options.python}; run benchmarks/peers/setup.sh first")
    if not options.json:
        print(f"ringlet's large products are computed by {mkl.description()}", flush=True)
    rows = []
    for name in names:
        rows.append(row := compare(name, options))
        if options.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{name:6}  ringlet {row['ringlet_ms']:7.1f} ms   "
                f"torch {row['torch_ms']:7.1f} ms   ratio {row['ratio']:.2f}   "
                f"(fastest steps {row['fastest_ratio']:.2f})   memory "
                f"{row['ringlet_rss_mb']:.0f} / {row['torch_rss_mb']:.0f} MB"
                + (f"   torch as it comes {row['own_ms']:.1f} ms" if "own_ms" in row else ""),
                flush=True,
            )
    mean = math.exp(statistics.mean(math.log(row["ratio"]) for row in rows))
    if not options.json:
        print(f"geometric mean of the ratios {mean:.2f}")


if __name__ == "__main__":
    main()
