"""Sizes that the caches decide: what was chosen on this machine, beside the best of a search.

    python benchmarks/constants.py
    python benchmarks/constants.py --only adamw,sums

For each constant the time with what is used, with the best value that was tried, and the ratio of
both: medians of three rounds, in which all values take turns. Two ranks measure sums of plain
arrays; the rest is one thread's. Which of these sizes bits depend on, and why those are the same on
all machines, is in docs/explanation/measurements.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

ROUNDS = 3
BLOCKS = tuple(kib << 10 for kib in (4, 8, 16, 32, 64, 128))
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def seconds(call, budget=0.15):
    """The median of one call's."""
    call()
    times, until = [], time.perf_counter() + budget
    while time.perf_counter() < until or len(times) < 3:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def search(module, name, values, make):
    """(chosen value, {value: seconds}) of a module's constant."""
    chosen, found = getattr(module, name), {}
    for _ in range(ROUNDS):
        for value in dict.fromkeys((*values, chosen)):
            setattr(module, name, value)
            found.setdefault(value, []).append(seconds(make()))
    setattr(module, name, chosen)
    return chosen, {value: statistics.median(times) for value, times in found.items()}


def uniform(*shape):
    """A tensor that has a gradient."""
    from ringlet import nn

    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return nn.Tensor(x * np.float32(0.3), requires_grad=True)


def adamw():
    """A step of 4 million parameters."""
    from ringlet import nn
    from ringlet.nn.flat import FlatParameters
    from ringlet.nn.optim import optimizer

    def make():
        return nn.optim.AdamW(FlatParameters(nn.Linear(1024, 4000))).step

    return search(optimizer, "BLOCK", BLOCKS, make)


def gelu():
    """Forward and backward of 1.5 million numbers."""
    from ringlet import nn
    from ringlet.nn.autograd.operations import activations

    x = uniform(1024, 1536)
    return search(
        activations, "BLOCK", BLOCKS, lambda: lambda: nn.functional.gelu(x).sum().backward()
    )


def layer_norm():
    """Forward and backward of 1,024 rows of 384."""
    from ringlet import nn
    from ringlet.nn.autograd.operations import normalization

    x, layer = uniform(1024, 384), nn.LayerNorm(384)
    return search(normalization, "BLOCK", BLOCKS, lambda: lambda: layer(x).sum().backward())


def attention(name, values, batch, length):
    """Forward and backward of six heads of 64."""
    from ringlet.nn.autograd.operations import tiled_attention
    from ringlet.nn.autograd.operations.attention import packed_self_attention

    x = uniform(batch, length, 3 * 384)
    make = lambda: lambda: packed_self_attention(x, 6).sum().backward()  # noqa: E731
    return search(tiled_attention, name, values, make)


SCORES = tuple(kib << 10 for kib in (32, 64, 128, 256, 512))

ALONE = {
    "adamw": ("AdamW's block", adamw),
    "gelu": ("GELU's block", gelu),
    "layer_norm": ("layer norm's block", layer_norm),
    "scores": ("attention's tile, context 256", lambda: attention("SCORES", SCORES, 4, 256)),
    "long": ("attention's tile, context 1,024", lambda: attention("SCORES", SCORES, 1, 1024)),
    "rows": ("attention's rows, context 1,024", lambda: attention("ROWS", (64, 128, 256), 1, 1024)),
}


def sums():
    """On each of two ranks: ways of plain arrays by size; rank 0 prints them."""
    from ringlet import comm

    world = comm.init()
    shared = world._channel.shared
    control, kernel = shared.control, shared.kernel
    used = control.constants
    ways = {f"staged {kib} KiB": (kib << 10, False) for kib in (64, 128, 256, 512)}
    ways |= {"kernel": (used.stage, True)} if control.processes is not None else {}
    chosen = "kernel" if kernel else f"staged {used.stage >> 10} KiB"
    for nbytes in (1 << 20, 4 << 20, 16 << 20, 64 << 20):
        x, found = np.zeros(nbytes // 4, np.float32), {}
        for _ in range(ROUNDS):
            for name, (stage, through) in ways.items():
                control.constants, shared.kernel = used._replace(stage=stage), through
                shared._prepared.clear()
                for _ in range(3):
                    world.all_reduce(x)
                times = []
                for _ in range(max(5, (200 << 20) // nbytes)):
                    started = time.perf_counter()
                    world.all_reduce(x)
                    times.append(time.perf_counter() - started)
                found.setdefault(name, []).append(statistics.median(times))
        if world.rank == 0:
            found = {name: statistics.median(times) for name, times in found.items()}
            print(json.dumps([nbytes >> 20, chosen, found]), flush=True)


def two_ranks():
    """(what, chosen, {way: seconds}) of sums."""
    start = "from ringlet.launcher.cli import main; main()"
    command = [sys.executable, "-c", start, "run", "-n", "2", __file__, "--rank"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if "[" in line:
            mib, chosen, found = json.loads(line[line.index("[") :])
            yield f"a plain sum of {mib} MiB", chosen, found


def show(what, chosen, found):
    """One row of the table."""
    best = min(found, key=found.__getitem__)
    ratio = found[chosen] / found[best]
    cells = (what, *(f"{value} ({found[value] * 1e3:.3f} ms)" for value in (chosen, best)))
    print(f"| {' | '.join(cells)} | {ratio:.2f} |", flush=True)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", help=f"some of {', '.join(ALONE)}, sums")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        sums()
        return
    if not ONE_THREAD.items() <= os.environ.items():  # BLAS reads them when it is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    from ringlet.nn.memory import keep_freed_memory

    keep_freed_memory()
    wanted = options.only.split(",") if options.only else [*ALONE, "sums"]
    print("| constant | chosen | best | chosen / best |\n|---|---|---|---|")
    for name in wanted:
        if name != "sums":
            what, run = ALONE[name]
            show(what, *run())
    if "sums" in wanted:
        for row in two_ranks():
            show(*row)


if __name__ == "__main__":
    main()
