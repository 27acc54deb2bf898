"""What the planner expects of this machine against what happens: steps, memory, collectives.

    python benchmarks/planning.py [--quick] [--only small] [--steps 8] [--seconds 20] [--no-network]
    python benchmarks/planning.py --memory          # of every setting, over TCP; in a few minutes
    python benchmarks/planning.py --first-choice    # against all other settings, one by one
    python benchmarks/planning.py --auto            # against the default, and choices by hand

For each number of workers and each kind of link the machine is calibrated as `ringlet calibrate`
does it, with one BLAS thread for each worker; then each setting runs in fresh processes. A step's
time is that of the fastest, of the slowest rank in it; of one worker also the processor's, which
other work on the machine disturbs less. Memory is the peak of a rank's growth (VmHWM), over
sockets, where all of it is the rank's own. The links of 1 Gbit/s and 100 Mbit/s are virtual
(network_pair.py; needs root). planning_choices.py has the last two.
"""

import argparse
import os
import time
import tomllib

import numpy as np
from network_pair import NetworkPairError
from peer_programs import ONE_THREAD
from planning_choices import auto, first_choice
from planning_runs import Run, error, pool_of, summary

from ringlet import runtime
from ringlet.runtime import simulate
from ringlet.runtime.planning.cluster import parse_cluster
from ringlet.runtime.planning.fabric import Fabric, Ranks
from ringlet.runtime.planning.footprint import footprints
from ringlet.runtime.planning.links import rounds, slowest, typical

RUNS = (
    Run("nano"), Run("nano", "gpt", 2, "auto", {"mesh": "dp=2"}),
    Run("nano", "gpt", 2, "auto", {"mesh": "tp=2"}),
    Run("nano", "gpt", 2, "auto", {"mesh": "pp=2", "accumulate": 4}),
    Run("nano", "gpt", 4, "auto", {"mesh": "dp=4"}),
    Run("nano", "gpt", 4, "auto", {"mesh": "dp=2,tp=2"}),
    Run("nano", "gpt", 2, "tcp", {"mesh": "dp=2"}), Run("nano", "gpt", 2, 1000, {"mesh": "dp=2"}),
    Run("nano", "gpt", 2, 100, {"mesh": "dp=2"}),
    Run("small"), Run("small", "gpt", 2, "auto", {"mesh": "dp=2"}),
    Run("small", "gpt", 2, "auto", {"mesh": "dp=2", "zero": 1}),
    Run("small", "gpt", 2, "auto", {"mesh": "tp=2", "sequence": True}),
    Run("small", "gpt", 2, "auto", {"mesh": "cp=2"}),
    Run("small", "gpt", 2, "tcp", {"mesh": "pp=2", "accumulate": 4}),
    Run("small", "gpt", 2, "tcp", {"mesh": "dp=2", "zero": 3}),
    Run("small", "gpt", 4, "auto", {"mesh": "dp=2,pp=2", "accumulate": 2}),
    Run("small", "gpt", 8, "auto", {"mesh": "dp=8"}),
    Run("small", "gpt", 2, 100, {"mesh": "pp=2", "accumulate": 4}),
    Run("wide"), Run("wide", "gpt", 2, "auto", {"mesh": "dp=2"}),
    Run("wide", "gpt", 2, "auto", {"mesh": "dp=2", "recompute": "blocks"}),
    Run("wide", "gpt", 2, "tcp", {"mesh": "dp=2"}), Run("wide", "gpt", 2, 1000, {"mesh": "dp=2"}),
    Run("wide", "gpt", 2, 100, {"mesh": "tp=2"}),
    Run("small", "llama"), Run("small", "llama", 2, "auto", {"mesh": "dp=2"}),
    Run("small", "llama", 2, "auto", {"mesh": "tp=2"}),
    Run("small", "llama", 2, "tcp", {"mesh": "pp=2", "accumulate": 4}),
    Run("small", "llama", 4, "auto", {"mesh": "pp=4", "accumulate": 4}),
    Run("small", "llama", 2, 1000, {"mesh": "dp=2"}),
)  # fmt: skip

QUICK = (0, 1, 3, 6, 9, 10)

MORE = (
    Run("small", "gpt", 1, "tcp", {"accumulate": 4}),
    Run("wide", "gpt", 1, "tcp", {"accumulate": 2}),
    Run("small", "gpt", 1, "tcp", {"recompute": "blocks"}),
    Run("small", "gpt", 1, "tcp", {"dropout": 0.1}), Run("small", "gpt", 1, "tcp", {"experts": 4}),
    Run("small", "gpt", 2, "tcp", {"mesh": "ep=2", "experts": 4}),
    Run("small", "gpt", 2, "tcp", {"mesh": "dp=2", "zero": 2}),
    Run("small", "gpt", 2, "tcp", {"mesh": "dp=2", "zero": 3, "accumulate": 2}),
    Run("small", "gpt", 2, "tcp", {"mesh": "dp=2", "compress": "int8"}),
    Run("small", "gpt", 2, "tcp", {"mesh": "cp=2"}),
    Run("small", "gpt", 2, "tcp", {"mesh": "pp=2", "accumulate": 4, "schedule": "interleaved"}),
    Run("small", "gpt", 2, "tcp", {"mesh": "pp=2", "accumulate": 4, "schedule": "zero-bubble"}),
    Run("small", "gpt", 2, "tcp", {"mesh": "pp=2", "accumulate": 4, "schedule": "zb-v"}),
    Run("small", "gpt", 4, "tcp", {"mesh": "tp=2,pp=2", "accumulate": 4}),
    Run("baby"), Run("baby", "gpt", 2, "tcp", {"mesh": "pp=2", "accumulate": 4}),
    Run("long"), Run("long", "gpt", 2, "tcp", {"mesh": "cp=2"}),
    Run("small", "llama", 2, "tcp", {"mesh": "tp=2", "sequence": True}),
)  # fmt: skip
"""Whose memory is compared too."""

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather")
SIZES = (1 << 10, 1 << 16, 1 << 20, 1 << 23)


def calibration(world, seconds):
    """The machine with these ranks, as text, and collectives: name and bytes -> seconds."""
    found = {}
    cluster = runtime.calibrate(world, seconds)
    for name in COLLECTIVES if world.size > 1 else ():
        for nbytes in SIZES:
            found[f"{name} {nbytes}"] = collective(world, name, nbytes)
    return [str(cluster), found]


def collective(world, name, nbytes):
    """Seconds of the slowest rank: the first quartile of as many calls as half a second has."""
    x, part = world.empty(nbytes // 4), world.empty(nbytes // 4 // world.size)
    x.fill(0)
    part.fill(0)
    calls = {
        "all_reduce": lambda: world.all_reduce(x),
        "reduce_scatter": lambda: world.reduce_scatter(x, out=part),
        "all_gather": lambda: world.all_gather(part, out=x.reshape(world.size, -1)),
    }
    until = time.perf_counter() + 0.5
    return typical([slowest(world, calls[name]) for _ in rounds(world, until, least=8)])


def steps_table(runs, machines, steps):
    """Print steps and memory; returns the errors of steps, of the processor's time, of memory."""
    seconds, processor, memory = [], [], []
    head = f"{'expected':>10}{'measured':>10}{'':>8}{'processor':>10}{'':>8}"
    print(f"{'':48}{head}{'memory':>10}{'measured':>10}")
    for run in runs:
        cluster = machines.get((run.workers, run.link))
        if cluster is None:
            continue
        with pool_of(run.workers, run.link) as pool:
            rows = run.measured(pool, steps)
        took, busy = np.max([times for times, _ in rows], axis=0).min(axis=0)
        wanted = simulate(run.sizes, cluster, run.setting)
        seconds.append(error(wanted.seconds, took))
        line = f"{run!s:48}{wanted.seconds * 1e3:8.1f}ms{took * 1e3:8.1f}ms{seconds[-1]:+8.1%}"
        if run.workers == 1:
            processor.append(error(wanted.seconds, busy))
            line += f"{busy * 1e3:8.1f}ms{processor[-1]:+8.1%}"
        elif run.link == "tcp":
            line += f"{'':18}"
        if run.workers == 1 or run.link == "tcp":
            text, off = memory_of(wanted.memory, rows)
            memory.append(off)
            line += text
        print(line, flush=True)
    return seconds, processor, memory


def memory_of(wanted, rows):
    """What is expected of the rank that needs most, and what it needs: as text, and the error."""
    place, grown = max((each for _, each in rows), key=lambda each: each[1])
    most = wanted[place].total
    off = error(most, grown)
    return f"{most / 2**20:7.1f}MiB{grown / 2**20:7.1f}MiB{off:+8.1%}", off


def memory_table(runs):
    """Print the memory of all settings over TCP; returns the errors."""
    errors = []
    print(f"{'':72}{'memory':>10}{'measured':>10}")
    for run in dict.fromkeys(
        run._replace(link="tcp", options=tuple(run.options.items())) for run in runs
    ):
        own = run._replace(options=dict(run.options))
        with pool_of(own.workers, own.link) as pool:
            text, off = memory_of(footprints(own.sizes, own.setting), own.measured(pool, 1))
        errors.append(off)
        print(f"{own!s:72}{text}", flush=True)
    return errors


def collectives_table(machines, measured):
    """Print the collectives; returns their errors."""
    errors = []
    for (workers, link), cluster in machines.items():
        fabric = Fabric(cluster)
        for key, seconds in measured[workers, link].items():
            name, nbytes = key.split()
            wanted = fabric.collective(name, Ranks(workers, 1), float(nbytes))
            errors.append(error(wanted, seconds))
            head = f"{name} of {int(nbytes) >> 10} KiB, {workers} ranks, {link}"
            times = f"{wanted * 1e6:10.0f}us{seconds * 1e6:10.0f}us"
            print(f"{head:48}{times}{errors[-1]:+8.1%}", flush=True)
    return errors


def main():
    """Print tables, and the errors in short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few settings, short calibrations")
    parser.add_argument("--only", default="", help="settings whose preset or model has this name")
    parser.add_argument("--steps", type=int, default=0, help="of each setting")
    parser.add_argument("--seconds", type=float, default=0.0, help="of each calibration")
    parser.add_argument("--no-network", action="store_true", help="without virtual links")
    parser.add_argument("--memory", action="store_true", help="memory alone, of more settings")
    parser.add_argument("--first-choice", action="store_true", help="against every other setting")
    parser.add_argument("--auto", action="store_true", help="`ringlet train --auto` against others")
    given = parser.parse_args()
    steps = given.steps or (4 if given.quick else 8)
    seconds = given.seconds or (5.0 if given.quick else 20.0)
    if given.auto:  # its first part runs commands, which set BLAS's threads themselves
        auto(steps, seconds, given.quick, not given.no_network)
        return
    os.environ.update(ONE_THREAD)
    if given.first_choice:
        first_choice(steps, seconds, given.quick, given.only)
        return
    runs = [RUNS[number] for number in QUICK] if given.quick else [*RUNS, *MORE * given.memory]
    runs = [run for run in runs if given.only in ("", run.preset, run.model)]
    if given.memory:
        summary("memory", memory_table(runs))
    else:
        compare(
            [r for r in runs if isinstance(r.link, str) or not given.no_network], steps, seconds
        )


def compare(runs, steps, seconds):
    """Print steps, memory and collectives, and the errors in short."""
    machines, measured = {}, {}
    for key in dict.fromkeys((run.workers, run.link) for run in runs):
        try:
            with pool_of(*key) as pool:
                text, found = pool.run(calibration, deadline=600, seconds=seconds)[0]
        except NetworkPairError as reason:
            print(f"no link of {key[1]} Mbit/s: {reason}")
            continue
        machines[key], measured[key] = parse_cluster(tomllib.loads(text)), found
    cores = len(os.sched_getaffinity(0))
    name = next(iter(machines.values())).device.name
    print(f"{name}, {cores} cores, load {os.getloadavg()[0]:.1f}")
    found = steps_table(runs, machines, steps)
    summary("steps", found[0])
    summary("steps of one worker, the processor's time", found[1])
    summary("memory", found[2])
    summary("collectives", collectives_table(machines, measured))


if __name__ == "__main__":
    main()
