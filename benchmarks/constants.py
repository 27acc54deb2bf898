"""Sizes that caches and trials decide: what is chosen on this machine, beside the best of a search.

    python benchmarks/constants.py
    python benchmarks/constants.py --only adamw,sums

For each constant the time with what is used, with the best value that was tried, and the ratio of
both: medians of three rounds, in which all values take turns. Two ranks measure what travels; the
rest is one thread's. Which of these sizes bits depend on, and why those are the same on
all machines, is in docs/explanation/measurements.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial

import numpy as np
from peer_programs import ONE_THREAD

ROUNDS = 3
BLOCKS = tuple(kib << 10 for kib in (4, 8, 16, 32, 64, 128))


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


def turns(world, what, chosen, ways, x, call=None):
    """What a collective takes, with each of the ways {name: what sets it}, in turns; rank 0 prints
    it. The default is a sum of the array."""
    call, found = call or (lambda: world.all_reduce(x)), {}
    for _ in range(ROUNDS):
        for name, choose in ways.items():
            choose()
            for _ in range(3):
                call()
            times = []
            for _ in range(min(1000, max(5, (150 << 20) // x.nbytes))):
                started = time.perf_counter()
                call()
                times.append(time.perf_counter() - started)
            found.setdefault(name, []).append(statistics.median(times))
    ways[chosen]()
    if world.rank == 0:
        found = {name: statistics.median(times) for name, times in found.items()}
        print(json.dumps([what, chosen, found]), flush=True)


def size(nbytes):
    """As people say it."""
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def floats(nbytes, empty=np.empty):
    """An array of zeros."""
    x = empty(nbytes // 4, np.float32)
    x.fill(0)
    return x


def sums(world):
    """Plain sums by size: through the kernel, or through staging areas."""
    shared = world._channel.shared
    used = shared.control.constants

    def way(stage, kernel):
        return lambda: shared.use(used._replace(stage=stage, kernel=kernel))

    ways = {f"staged {kib} KiB": way(kib << 10, False) for kib in (64, 128, 256, 512)}
    ways |= {"kernel": way(used.stage, True)} if shared.control.processes is not None else {}
    chosen = "kernel" if used.kernel else f"staged {used.stage >> 10} KiB"
    for nbytes in (512 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20):
        turns(world, f"a plain sum of {size(nbytes)}", chosen, ways, floats(nbytes))
    shared.use(used)


def copies(world):
    """Operations that only move arrays: from which size through the kernel."""
    shared = world._channel.shared
    used = shared.control.constants
    if shared.control.processes is None:
        return

    def staged():
        shared.use(used._replace(moves=1 << 60))
        shared.attach_from, shared.kernel = 1 << 60, False

    def attached():
        shared.attach_from = 0

    def gather(x):
        out = np.empty((world.size, x.size), np.float32)
        return lambda: world.all_gather(x, out=out)

    calls = {
        "all-gather": gather,
        "reduce-scatter": lambda x: partial(world.reduce_scatter, x, out=x[: x.size // world.size]),
        "all-to-all": lambda x: partial(world.all_to_all, x, out=np.empty_like(x)),
        "broadcast": lambda x: partial(world.broadcast, x),
    }
    ways = {"staged": staged, "kernel": attached}
    for name, make in calls.items():
        for nbytes in (512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20):
            x, what = floats(nbytes), f"{name} of {size(nbytes)} from each rank"
            shared.use(used)
            chosen = shared.attached(name.replace("-", "_"), nbytes)
            turns(world, what, "kernel" if chosen else "staged", ways, x, make(x))
    shared.use(used)


def whole(world):
    """Short sums: every rank adds up all of it, or its half."""
    shared = world._channel.shared
    used = shared.control.constants

    def way(most):
        return lambda: shared.use(used._replace(whole=most))

    ways = {"whole": way(1 << 20), "halves": way(0)}
    for kind, empty in (("plain", np.empty), ("registered", world.empty)):
        for nbytes in (8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10):
            what = f"a {kind} sum of {size(nbytes)}"
            chosen = "whole" if nbytes <= used.whole else "halves"
            turns(world, what, chosen, ways, floats(nbytes, empty))
    shared.use(used)


def blocks(world):
    """Blocks that are combined at once: the largest of registered arrays, and sums of plain ones
    through the kernel."""
    from ringlet.comm.shared import steps

    shared, block_elements = world._channel.shared, steps.block_elements

    def way(nbytes):
        def choose():
            steps.block_elements = block_elements if nbytes is None else lambda *_: nbytes // 4
            shared.forget()

        return choose

    for kind, op, empty, arrays in (
        ("registered", "max", world.empty, world.size),
        ("plain", "sum", np.empty, steps.BLOCK_SHARES * world.size),
    ):
        used = size(4 * block_elements(4, arrays))
        ways = {size(kib << 10): way(kib << 10) for kib in (64, 128, 256, 512, 1024)}
        ways[used] = way(None)
        for nbytes in (4 << 20, 16 << 20, 64 << 20):
            x, what = floats(nbytes, empty), f"{kind} {op} of {size(nbytes)}, at once"
            turns(world, what, used, ways, x, partial(world.all_reduce, x, op))


def segments(world):
    """Messages: how long they are."""
    sockets = world._channel.sockets
    used = sockets.segment_bytes

    def way(nbytes):
        return lambda: setattr(sockets, "segment_bytes", nbytes)

    ways = {size(kib << 10): way(kib << 10) for kib in (512, 1024, 2048, 4096, 8192)}
    for nbytes in (4 << 20, 16 << 20, 64 << 20):
        turns(world, f"TCP sum of {size(nbytes)}, segments", size(used), ways, floats(nbytes))


def zero_copy(world):
    """Messages: from which size they are sent without a copy."""
    from ringlet.comm.sockets import endpoint, transport

    used = endpoint.ZERO_COPY_BYTES

    def way(nbytes):
        def choose():
            endpoint.ZERO_COPY_BYTES = transport.ZERO_COPY_BYTES = nbytes

        return choose

    for nbytes in (256 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20):
        message = min(nbytes // 2, world._channel.sockets.segment_bytes)
        ways, chosen = {"copied": way(1 << 60), "not copied": way(0)}, message < used
        what = f"TCP sum of {size(nbytes)}, messages of {size(message)}"
        turns(world, what, "copied" if chosen else "not copied", ways, floats(nbytes))
    way(used)()


TOGETHER = {
    "sums": ("auto", sums), "copies": ("auto", copies), "whole": ("auto", whole),
    "blocks": ("auto", blocks), "segments": ("tcp", segments), "zero_copy": ("tcp", zero_copy),
}  # fmt: skip
"""What two ranks measure, and over which transport."""


def rank(names):
    """The program of a rank."""
    from ringlet import comm
    from ringlet.comm.sockets import inbox

    inbox.SEGMENT_BYTES = 16 << 20  # what it takes in
    world = comm.init()
    for name in names:
        TOGETHER[name][1](world)


def two_ranks(names, transport):
    """(what, chosen, {way: seconds}) of each row."""
    start = "from ringlet.launcher.cli import main; main()"
    run = ["run", "-n", "2", "--transport", transport, __file__, "--rank", ",".join(names)]
    command = [sys.executable, "-c", start, *run]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        if "[" in line:
            yield json.loads(line[line.index("[") :])


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
    parser.add_argument("--only", help=f"some of {', '.join([*ALONE, *TOGETHER])}")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank(options.rank.split(","))
        return
    if not ONE_THREAD.items() <= os.environ.items():  # BLAS reads them when it is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    from ringlet.nn.memory import keep_freed_memory

    keep_freed_memory()
    wanted = options.only.split(",") if options.only else [*ALONE, *TOGETHER]
    print("| constant | chosen | best | chosen / best |\n|---|---|---|---|")
    for name in wanted:
        if name in ALONE:
            what, run = ALONE[name]
            show(what, *run())
    for transport in ("auto", "tcp"):
        names = [name for name in wanted if TOGETHER.get(name, ("",))[0] == transport]
        for row in two_ranks(names, transport) if names else ():
            show(*row)


if __name__ == "__main__":
    main()
