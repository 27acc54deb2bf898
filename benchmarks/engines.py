"""Engines: how long from submission to the first step, and after what goes wrong to the next one.

    python benchmarks/engines.py [--engines slurm,ray]

A small training of two workers, each on a host of its own, runs on ringlet's own agents (two
network namespaces), on Slurm (two more of them), Ray (three nodes at loopback addresses, one to
spare), the stand-in for Kubernetes (pods in namespaces) and mpirun (on this host). On each it runs
four times: in peace; and with a rank killed, a host killed, and a host drained, once some steps are
saved. Printed are the seconds to the first step of all four, from the failure to the next step, and
whether the weights at the end are the same bits as those of the first engine's run in peace. What
is not here is skipped, with the reason.
"""

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from engine_runs import DEADLINE_S, Absent, Agents, Kubernetes, Mpirun, Ray, Slurm
from small_runs import newest_weights

SAVED = 5
"""Steps between checkpoints; more than that are taken before something goes wrong."""


class Steps:
    """When each step of a training was written to its metrics, seen while it runs."""

    def __init__(self, out):
        self.seen = []  # (time, step)
        self._path, self._end = Path(out, "metrics.jsonl"), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        place = 0
        while not self._end.wait(0.01):
            with contextlib.suppress(OSError), self._path.open("rb") as file:
                place = min(place, file.seek(0, os.SEEK_END))  # it is cut at a restart
                file.seek(place)
                for line in file:
                    if line.endswith(b"\n"):
                        place += len(line)
                        with contextlib.suppress(ValueError):
                            row = json.loads(line)
                            self.seen += [(time.monotonic(), row["step"])] if "loss" in row else []

    def last(self):
        return self.seen[-1][1] if self.seen else 0

    def close(self):
        self._end.set()
        self._thread.join()

    def after(self, moment):
        """From the moment to the step that ends the longest pause after it."""
        times = [each for each, _ in self.seen]
        pauses = [(b - a, b) for a, b in pairwise(times) if b > moment]
        return max(pauses)[1] - moment


ENGINES = {
    "agents": Agents, "slurm": Slurm, "kubernetes": Kubernetes, "ray": Ray, "mpirun": Mpirun,
}  # fmt: skip
FAILURES = {"rank": "killed rank", "host": "killed host", "node": "drained node"}
CALLS = {"rank": "kill_rank", "host": "kill_host", "node": "drain"}


def measured(engine, name, last):
    """Seconds to the first step, from the failure of this name to the next, and the weights."""
    begun = time.monotonic()
    run = engine.start(name)
    steps = Steps(run.out)
    try:
        after = None
        if name in CALLS:
            wait_for(lambda: run.ended() or steps.last() > SAVED)
            moment = time.monotonic()
            getattr(run, CALLS[name])()
        wait_for(run.ended)
        steps.close()
        assert steps.last() == last, (engine.name, name, steps.last())
        if name in CALLS:
            after = steps.after(moment)
        return steps.seen[0][0] - begun, after, digest(run.out)
    finally:
        steps.close()
        run.close()


def wait_for(what):
    """Wait until it is true. To ask an engine costs it some time: not too often."""
    end = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.2)


def digest(out):
    """Of all weights of the newest checkpoint."""
    weights = newest_weights(out)
    return hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--engines", default=",".join(ENGINES), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON line for each")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("RINGLET_", "SLURM_"))]:
        del os.environ[name]
    if not options.json:
        heads = ("first step", *FAILURES.values(), "the same bits")
        print(f"{'':22}" + "".join(f"{head:>15}" for head in heads), flush=True)
    expected = None
    for name in options.engines.split(","):
        with tempfile.TemporaryDirectory(prefix="rl-", dir="/tmp") as base:
            os.chdir(base)
            text = Path(base, "text.txt")
            text.write_text("the quick brown fox jumps over the lazy dog. " * 500)
            train = ("train", "-n", "1", "--preset", "tiny", "--data", str(text), "--steps",
                     str(options.steps), "--checkpoint-every", str(SAVED), "--eval-every",
                     str(options.steps), "--sample", "0")  # fmt: skip
            engine = ENGINES[name](Path(base).resolve(), train)
            try:
                with engine.open():
                    found = {
                        each: measured(engine, each, options.steps) for each in ("peace", *CALLS)
                    }
            except Absent as reason:
                print(f"{engine.name:22} skipped: {reason}", flush=True)
                continue
            finally:
                os.chdir("/")
        expected = expected or found["peace"][2]
        same = all(each[2] == expected for each in found.values())
        row = [statistics.median(each[0] for each in found.values())]
        row += [found[each][1] for each in CALLS]
        if options.json:
            print(json.dumps({"engine": engine.name, "s": row, "same": same}), flush=True)
        else:
            cells = [*(f"{each:.1f} s" for each in row), "yes" if same else "NO"]
            print(f"{engine.name:22}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
