"""One training step of a GPT on two cores: two workers of ringlet against PyTorch's ways.

    PEERS=$(bash benchmarks/peers/setup.sh)                 # once; makes the peers' environment
    python benchmarks/two_workers.py --python "$PEERS/python"

ringlet: `ringlet run -n 2`, one thread each, data parallel with ZeRO 1. PyTorch:
DistributedDataParallel with Gloo, two processes of one thread; eager with two threads;
torch.compile with two threads (needs a C++ compiler; its compilation is not in the time). The batch
is the same for all, and so are the allocator's settings, those of `ringlet run`. They run in turns;
reported is the median over the rounds of each one's median step (of rank 0). A config whose batch
has one sample cannot be shared: it is left out.
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
from train_step import HERE

from ringlet.launcher.supervisor.environment import ALLOCATOR
from ringlet.nn import mkl

PEER = HERE / "peers/gpt_torch.py"
WAYS = ("ringlet", "ddp", "eager", "compile")


def command(way, python, config, steps):
    """What runs one side, and its number of threads for each process."""
    arguments = [config, str(steps)]
    if way == "ringlet":
        ringlet = str(Path(sys.executable).with_name("ringlet"))
        launcher = [ringlet, "run", "-n", "2", "--no-prefix"]
        return [*launcher, str(HERE / "gpt_ringlet.py"), *arguments], 1
    if way == "ddp":
        torchrun = [python, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        return [*torchrun, str(PEER), *arguments, "ddp"], 1
    return [python, str(PEER), *arguments, way, "2"], 2


def run(way, python, config, steps):
    """One run's row; None, with the reason on standard error, if it failed."""
    words, threads = command(way, str(python), config, steps)
    environment = {**os.environ, **dict.fromkeys(ONE_THREAD, str(threads)), **ALLOCATOR}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    rows = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode or not rows:
        print(f"{way} failed:\n{ended.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(rows[-1])


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    several = ",".join(name for name, sizes in CONFIGS.items() if sizes[-1] > 1)
    parser.add_argument("--configs", default=several, help="default: %(default)s")
    parser.add_argument("--ways", default=",".join(WAYS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--python", default=DEFAULT_PEERS / "python", help="the peers' interpreter")
    parser.add_argument("--json", action="store_true", help="one JSON line for each config")
    options = parser.parse_args()
    names, ways = options.configs.split(","), options.ways.split(",")
    if set(names) - set(several.split(",")) or set(ways) - set(WAYS) or "ringlet" not in ways:
        parser.error(f"configs are {several}; ways are {', '.join(WAYS)}, ringlet among them")
    if not Path(options.python).exists():
        parser.error(f"there is no {options.python}; run benchmarks/peers/setup.sh first")
    if not options.json:
        print(f"ringlet's large products are computed by {mkl.description()}", flush=True)
    ratios = {way: [] for way in ways}
    for name in names:
        rows = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way in ways:
                row = run(way, options.python, name, options.steps)
                rows[way] += [] if row is None else [row["step_ms"]]
        if not rows["ringlet"]:
            sys.exit(f"{name}: ringlet's side failed")
        times = {way: statistics.median(found) for way, found in rows.items() if found}
        parts = [f"{name:6}"]
        for way, time in times.items():
            ratios[way].append(times["ringlet"] / time)
            parts.append(f"{way} {time:7.1f} ms ({ratios[way][-1]:.2f})")
        print(
            json.dumps({"config": name, **times}) if options.json else "   ".join(parts), flush=True
        )
    for way in ways[1:]:
        if ratios[way] and not options.json:
            mean = math.exp(statistics.mean(map(math.log, ratios[way])))
            print(f"ringlet / {way}: geometric mean {mean:.2f}")


if __name__ == "__main__":
    main()
