"""What the planner expects of this machine against what happens: steps, memory, collectives.

    python benchmarks/planning.py [--quick] [--only small] [--steps 8] [--seconds 20] [--no-network]

For each number of workers and each kind of link the machine is calibrated as `ringlet calibrate`
does it, with one BLAS thread for each worker; then each setting runs in fresh processes. A step's
time is that of the fastest, of the slowest rank in it; of one worker also the processor's, which
other work on the machine disturbs less. Memory is the peak of a rank's growth (VmHWM), over
sockets, where all of it is the rank's own. The links of 1 Gbit/s and 100 Mbit/s are virtual
(network_pair.py; needs root).
"""

import argparse
import contextlib
import gc
import os
import statistics
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from memory import status
from network_pair import NetworkPair, NetworkPairError, NetworkPairPool

from ringlet import runtime
from ringlet.launcher.testing.pool import WorkerPool
from ringlet.nn.memory import return_freed_memory
from ringlet.runtime import Setting, Trainer, load_corpus, make_config, simulate
from ringlet.runtime.planning.cluster import parse_cluster
from ringlet.runtime.planning.fabric import Fabric, Ranks
from ringlet.runtime.planning.models import model_of
from ringlet.runtime.training.factories import model_config
from ringlet.runtime.training.fit import mesh_shape, parallelism


class Run(NamedTuple):
    """A preset's model, trained so on so many workers; `link` is a transport, or Mbit/s between two
    hosts."""

    preset: str
    model: str = "gpt"
    workers: int = 1
    link: str | int = "auto"
    options: Mapping = MappingProxyType({})


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

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather")
SIZES = (1 << 10, 1 << 16, 1 << 20, 1 << 23)
WARM_UP = 2
HOSTS = {2: (0, 1), 4: (0, 0, 1, 1)}


@contextlib.contextmanager
def pool_of(workers, link):
    """Fresh workers."""
    with contextlib.ExitStack() as stack:
        if isinstance(link, str):
            yield stack.enter_context(WorkerPool(workers, link, 120.0))
        else:
            pair = stack.enter_context(NetworkPair(link))
            yield stack.enter_context(NetworkPairPool(pair, HOSTS[workers], timeout=120.0))


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
    times, until = [], time.perf_counter() + 0.5
    on = np.ones(1)
    while on[0]:
        world.barrier()
        started = time.perf_counter()
        calls[name]()
        took = np.array([time.perf_counter() - started])
        times.append(float(world.all_reduce(took, "max")[0]))
        on[0] = len(times) < 8 or time.perf_counter() < until
        on = world.broadcast(on)
    return statistics.quantiles(times, n=4)[0]


def train(world, preset, model, options, steps):
    """By step, seconds and the processor's; place in the pipeline, bytes by which the rank grew."""
    small = np.ones((256, 256), np.float32)
    _ = small @ small  # BLAS takes its buffers at the first product
    config = make_config(preset, None, {"model": model, **options})
    corpus = load_corpus("pydoc", config.block_size, config.vocab_size or None)
    gc.collect()
    return_freed_memory()  # else the peak reuses it
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    trainer, times = Trainer(config, corpus, world), []
    for _ in range(steps + WARM_UP):
        world.barrier()
        started, busy = time.perf_counter(), time.thread_time()
        trainer._train_step()
        times.append([time.perf_counter() - started, time.thread_time() - busy])
    return [times[WARM_UP:], [trainer.mesh.index("pp"), status("VmHWM") - before]]


def expected(run, cluster):
    """The simulated step."""
    config = make_config(run.preset, None, {"model": run.model, **run.options})
    corpus = load_corpus("pydoc", config.block_size, config.vocab_size or None)
    mesh = mesh_shape(config, run.workers)
    micro = config.batch_size // (mesh["dp"] * mesh["ep"] * config.accumulate)
    setting = Setting(mesh, config.batch_size, micro, parallelism(config))
    return simulate(model_of(model_config(config, corpus.vocab_size)), cluster, setting)


def error(wanted, found):
    """How far the expected figure is from the measured one."""
    return wanted / found - 1


def summary(what, errors):
    """A line of the median and the worst."""
    sizes = sorted(map(abs, errors))
    if sizes:
        middle = statistics.median(sizes)
        print(f"{what}: {len(sizes)} figures, median {middle:.1%}, worst {sizes[-1]:.1%}")


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
            how = {"preset": run.preset, "model": run.model, "options": dict(run.options)}
            rows = pool.run(train, deadline=600, steps=steps, **how)
        took, busy = np.max([times for times, _ in rows], axis=0).min(axis=0)
        wanted = expected(run, cluster)
        seconds.append(error(wanted.seconds, took))
        words = " ".join(f"{name}={value}" for name, value in run.options.items())
        link = run.link if isinstance(run.link, str) else f"{run.link} Mbit/s"
        head = f"{run.preset} {run.model} x{run.workers} {link} {words.removeprefix('mesh=')}"
        line = f"{head:48}{wanted.seconds * 1e3:8.1f}ms{took * 1e3:8.1f}ms{seconds[-1]:+8.1%}"
        if run.workers == 1:
            processor.append(error(wanted.seconds, busy))
            line += f"{busy * 1e3:8.1f}ms{processor[-1]:+8.1%}"
        elif run.link == "tcp":
            line += f"{'':18}"
        if run.workers == 1 or run.link == "tcp":
            place, grown = max((each for _, each in rows), key=lambda each: each[1])
            most = wanted.memory[place].total
            memory.append(error(most, grown))
            line += f"{most / 2**20:7.1f}MiB{grown / 2**20:7.1f}MiB{memory[-1]:+8.1%}"
        print(line, flush=True)
    return seconds, processor, memory


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
    given = parser.parse_args()
    runs = [RUNS[number] for number in QUICK] if given.quick else list(RUNS)
    runs = [run for run in runs if given.only in ("", run.preset, run.model)]
    if given.no_network:
        runs = [run for run in runs if isinstance(run.link, str)]
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    machines, measured = {}, {}
    for key in dict.fromkeys((run.workers, run.link) for run in runs):
        try:
            with pool_of(*key) as pool:
                how = {"seconds": given.seconds or (5.0 if given.quick else 20.0)}
                text, found = pool.run(calibration, deadline=600, **how)[0]
        except NetworkPairError as reason:
            print(f"no link of {key[1]} Mbit/s: {reason}")
            continue
        machines[key], measured[key] = parse_cluster(tomllib.loads(text)), found
    cores = len(os.sched_getaffinity(0))
    name = next(iter(machines.values())).device.name
    print(f"{name}, {cores} cores, load {os.getloadavg()[0]:.1f}")
    found = steps_table(runs, machines, given.steps or (4 if given.quick else 8))
    summary("steps", found[0])
    summary("steps of one worker, the processor's time", found[1])
    summary("memory", found[2])
    summary("collectives", collectives_table(machines, measured))


if __name__ == "__main__":
    main()
