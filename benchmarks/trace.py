"""What tracing costs, and how near its numbers are.

    python benchmarks/trace.py cost                        # steps with and without, in turns
    python benchmarks/trace.py bubbles                     # measured beside predicted
    python benchmarks/trace.py overlap --mbit 100          # beside overlap.py; needs root

`cost`: workers that record and workers that do not, one BLAS thread each, take blocks of steps in
turns; a pair of neighbouring blocks gives one difference, and the median of all is shown. Between
blocks the others sleep. `accounted` is the part of a step that has a name, on the worst rank.

`bubbles`: a pipeline of 2 or 4 stages on workers of this machine. Where there are more workers than
cores they slow each other, so predictions are from the measured seconds of each stage.

`overlap`: data parallelism of two hosts (network namespaces) whose link is slow, by the trace, and
as benchmarks/overlap.py counts: what a step takes longer than one that says nothing is not hidden.
That is also what computing takes longer while something travels, which a trace cannot know.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from network_pair import NetworkPair, NetworkPairPool
from overlap import measured as measured_overlap
from peer_programs import ONE_THREAD

from ringlet.comm import timeline
from ringlet.launcher.testing.pool import WorkerPool
from ringlet.runtime import Trainer, load_corpus, make_config
from ringlet.runtime.tracing import measure, read_trace, write_trace
from ringlet.runtime.tracing.pieces import IDLE, OTHER

STEPS, WARM_UP = 10, 3
DEADLINE_S = 600.0

SCHEDULES = {"1f1b": {}, "interleaved": {"chunks": 2}, "zero-bubble": {}}

_trainers = {}


def take_steps(world, preset, count, options):
    """Seconds of so many steps of a training, which goes on from call to call; and how many entries
    one leaves."""
    if preset not in _trainers:
        config = make_config(preset, None, {"clip": 0.0, **options})
        corpus = load_corpus("pydoc", config.block_size, config.vocab_size or None)
        _trainers[preset] = Trainer(config, corpus, world)
    trainer, seconds = _trainers[preset], []
    world.barrier()
    for _ in range(count):
        started = time.perf_counter()
        with timeline.span("step", trainer.step + 1):
            trainer._train_step()
        seconds.append(time.perf_counter() - started)
    return seconds


def traced(pool, folder, **how):
    """The trace of some steps in a pool whose workers record to the folder."""
    pool.run(take_steps, deadline=DEADLINE_S, count=WARM_UP + STEPS, **how)
    write_trace(folder, folder / "trace.json", STEPS)
    return read_trace(folder / "trace.json")


def recording(folder):
    return {timeline.FOLDER: str(folder)}


def cost(preset, workers, blocks):
    """One line: the median of pairs of blocks, one with and one without."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pools = [WorkerPool(workers), WorkerPool(workers, variables=recording(folder))]
        how = {"preset": preset, "options": {}, "deadline": DEADLINE_S}
        try:
            for pool in pools:
                pool.run(take_steps, count=WARM_UP, **how)
            pairs = []
            for number in range(blocks):
                pair = {}
                for which in (0, 1) if number % 2 else (1, 0):
                    rows = pools[which].run(take_steps, count=STEPS, **how)
                    pair[which] = statistics.median(map(max, zip(*rows, strict=True)))
                pairs.append((pair[0], pair[1]))
            write_trace(folder, folder / "trace.json", STEPS)
        finally:
            for pool in pools:
                pool.close()
        trace = read_trace(folder / "trace.json")
        found = measure(trace)
    entries = sum(map(len, trace.slices.values())) / len(found.steps) / workers
    shares = [parts.get(OTHER, 0.0) / sum(parts.values()) for parts in found.parts.values()]
    plain = statistics.median(before for before, _ in pairs)
    extra = statistics.median(after / before - 1 for before, after in pairs)
    print(
        f"{preset:6} {workers} workers {plain * 1e3:9.2f} ms a step, traced {extra:+7.2%}   "
        f"{entries:5.0f} entries a step and rank, accounted {1 - max(shares):.2%}",
        flush=True,
    )


def bubbles(preset, stages, name, micro_batches):
    """One line: the bubble of a schedule."""
    options = {"mesh": f"pp={stages}", "schedule": name, "accumulate": micro_batches}
    options |= {"batch_size": 2 * micro_batches, "n_layer": 8, **SCHEDULES[name]}
    with tempfile.TemporaryDirectory() as folder:
        pool = WorkerPool(stages, variables=recording(folder))
        try:
            trace = traced(pool, Path(folder), preset=preset, options=options)
        finally:
            pool.close()
    (found,) = measure(trace).bubbles
    print(
        f"{name:12} {stages} stages, {micro_batches} micro-batches: measured "
        f"{found.measured:6.1%}, "
        f"predicted {found.predicted:6.1%}, textbook {found.textbook:6.1%}",
        flush=True,
    )


def overlap(pair, mbit, preset, batch):
    """One line: the hidden part of what travels, counted in two ways."""
    pair.set_rate(mbit)
    options = {"clip": 0.0, **({"batch_size": batch} if batch else {})}
    with NetworkPairPool(pair, timeout=120.0) as pool:
        rows = pool.run(measured_overlap, DEADLINE_S, blocks=3, preset=preset, options=options)
    slower = max(rows, key=lambda row: row["step"] + row["extra"])
    talking = sum(slower["seconds"])
    with (
        tempfile.TemporaryDirectory() as folder,
        NetworkPairPool(pair, timeout=120.0, variables=recording(folder)) as pool,
    ):
        trace = traced(pool, Path(folder), preset=preset, options=options)
    found = measure(trace)
    rank = max(found.parts, key=lambda each: sum(found.parts[each].values()))
    travels, hidden = found.overlap[rank]
    longer = sum(t for what, t in found.parts[rank].items() if what not in IDLE) - slower["step"]
    print(
        f"{mbit} Mbit/s {preset}: by the trace {hidden / travels:.1%} of {travels * 1e3:.0f} ms "
        f"hidden, {(hidden - longer) / travels:.1%} without the {longer * 1e3:.0f} ms by which "
        f"computing takes longer meanwhile, step {found.seconds * 1e3:.0f} ms; by overlap.py "
        f"{1 - slower['extra'] / talking:.1%} of {talking * 1e3:.0f} ms, step "
        f"{(slower['step'] + slower['extra']) * 1e3:.0f} ms",
        flush=True,
    )


def main():
    """Print some lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("cost", "bubbles", "overlap"))
    parser.add_argument("--presets", default="", help="default: nano,small; of the last two: nano")
    parser.add_argument("--workers", default="2,4", help="or stages; default: %(default)s")
    parser.add_argument("--blocks", type=int, default=20, help="of cost; default: %(default)s")
    parser.add_argument("--micro-batches", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--mbit", default="1000,100", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=0, help="of overlap: contexts in a step")
    given = parser.parse_args()
    presets = given.presets or ("nano,small" if given.what == "cost" else "nano")
    for preset in presets.split(","):
        if given.what == "overlap":
            with NetworkPair() as pair:
                for mbit in map(int, given.mbit.split(",")):
                    overlap(pair, mbit, preset, given.batch)
            continue
        for workers in map(int, given.workers.split(",")):
            if given.what == "cost":
                cost(preset, workers, given.blocks)
            for name in SCHEDULES if given.what == "bubbles" else ():
                bubbles(preset, workers, name, given.micro_batches)


if __name__ == "__main__":
    os.environ.update(ONE_THREAD)
    main()
