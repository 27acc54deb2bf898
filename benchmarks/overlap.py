"""How much of the gradients' time on a slow link is hidden behind computing, and how much could be.

    python benchmarks/overlap.py                                # 1 Gbit/s and 100 Mbit/s
    python benchmarks/overlap.py --mbit 100 --presets small --batch 16

Two workers on two hosts (network namespaces; needs root), one BLAS thread each. Measured, in
turns:

- `computing`: a step of both workers at once, each on its half of the batch, that says nothing;
  when each gradient becomes final in it, and when each block runs;
- `talking`: the sums of all buckets, alone, one after the other;
- `step`: the step of data parallelism, several in a row.

*Hidden* is computing + talking - step. *Can be hidden* is what an ideal machine would hide with the
same order: a bucket leaves when it is final and the one before it has arrived, and computing and
talking do not slow each other. For `priority` a block's forward pass begins when its buckets
have arrived, and what is left is sent from the first layers on.
"""

import argparse
import statistics
import time

import numpy as np
from network_pair import NetworkPair, NetworkPairPool
from peer_programs import ONE_THREAD

from ringlet.runtime import Trainer, load_corpus, make_config

STEPS = 8
"""In a block."""

WARM_UP = 5
"""Steps of the first block, which does not count: priority looks at its first four."""


def make_trainer(world, together, preset, options):
    """A trainer, of both ranks or of this one alone on its half of the batch."""
    config = make_config(preset, None, options)
    corpus = load_corpus("pydoc", config.block_size, config.vocab_size or None)
    if not together:
        world = world.split([world.rank])
        alone = {"batch_size": config.batch_size // 2, "priority": False}
        config = make_config(preset, None, {**options, **alone})
    return Trainer(config, corpus, world)


class Clock:
    """Marks the moments of a step: when gradients are final, when each block begins."""

    def __init__(self, trainer):
        self.model = trainer.parallel.model
        self.slots = trainer.parallel.shards[0].slots
        self.final, self.begun = {}, []
        for slot in self.slots:
            slot.parameter.register_post_accumulate_grad_hook(self._mark_final(slot.name))
        for block in self.model.blocks:
            block.register_forward_pre_hook(self._mark_begun)

    def _mark_final(self, name):
        def hook(parameter):
            self.final[name] = time.perf_counter()

        return hook

    def _mark_begun(self, block, arguments):
        self.begun.append(time.perf_counter())


def measured(world, blocks, **how):
    """Medians over so many blocks of steps, the three in turns, and how the sums are cut.

    `extra` is what a step of both takes longer than one that says nothing, in the same block.
    """
    alone, both = make_trainer(world, False, **how), make_trainer(world, True, **how)
    reducer = both.parallel.gradient_groups[0].reducer
    clock = Clock(alone)
    moments, sums, pairs = [], [], []
    for number in range(blocks + 1):
        rows = [moments_of(alone, clock, world) for _ in range(STEPS)]
        sums.append(talk(world, reducer))
        step = consecutive(both, WARM_UP if number == 0 else STEPS, world)
        if number:
            moments += rows
            pairs.append([np.median([row[0] for row in rows]), step])
    step, *rest = np.median(moments, axis=0).tolist()
    blocks_of_model = len(clock.begun)
    names = [slot.name for slot in clock.slots]
    return {
        "step": step,
        "begun": rest[: 1 + blocks_of_model],
        "final": dict(zip(names, rest[1 + blocks_of_model :], strict=True)),
        "seconds": np.median(sums[1:], axis=0).tolist(),
        "buckets": [[slot.name for slot in bucket.slots] for bucket in reducer.buckets],
        "bucket_bytes": reducer.bucket_bytes,
        "ahead": getattr(reducer, "_ahead", None),
        "extra": float(np.median([after - before for before, after in pairs])),
    }


def moments_of(trainer, clock, world):
    """Of a step that says nothing: [its end, begins of embedding and blocks, final gradients]."""
    clock.begun.clear()
    world.barrier()
    started = time.perf_counter()
    trainer._train_step()
    end = time.perf_counter()
    final = [clock.final[slot.name] for slot in clock.slots]
    return [when - started for when in (end, started, *clock.begun, *final)]


def talk(world, reducer):
    """Seconds of each bucket's sum, alone, one after the other."""
    world.barrier()
    last, row = time.perf_counter(), []
    works = [reducer._start(bucket, reducer._group, "alone") for bucket in reducer.buckets]
    for work in works:
        work.wait()
        row.append(time.perf_counter() - last)
        last = time.perf_counter()
    return row


def consecutive(trainer, steps, world):
    """The median of the seconds of steps in a row; before the first, nothing is on its way."""
    world.barrier()
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        trainer._train_step()
        seconds.append(time.perf_counter() - started)
    trainer.parallel.complete()
    return statistics.median(seconds[1:])


def ideal_step(found, ahead):
    """Seconds of a step whose talking costs nothing but its time on the wire."""
    final = [max(found["final"][name] for name in bucket) for bucket in found["buckets"]]
    if ahead is None:
        return found["step"] + max(0.0, deliver(range(len(final)), final, found)[-1] - max(final))
    return ideal_priority(found, ahead, final)


def deliver(order, final, found):
    """When each bucket, sent in this order once it is final, has arrived."""
    arrived, now = [0.0] * len(final), 0.0
    for number in order:
        now = max(now, final[number]) + found["seconds"][number]
        arrived[number] = now
    return arrived


def ideal_priority(found, ahead, final):
    """The same, once one step's talking reaches into the next one's forward pass."""
    count, ended = len(final), max(final)
    order = [*range(ahead), *reversed(range(ahead, count))]
    ready = [final[n] if n < ahead else ended for n in range(count)]
    tail = found["step"] - ended  # the optimizer, bucket by bucket, as needed
    begins = [*found["begun"], ended]
    arrived, begin, begin_before = [0.0] * count, 0.0, 0.0
    for _ in range(8):
        begin_before, now, due = begin, begin, set(range(count))
        shifted = []
        for place, since in enumerate(begins[:-1]):
            needed = due & needed_by(found, place, len(begins) - 2)
            due -= needed
            for number in needed:
                now = max(now, arrived[number])
            shifted.append(now)
            now += begins[place + 1] - since if place < len(begins) - 2 else 0.0
        shift = shifted[-1] - begins[-2]
        arrived = deliver(order, [when + shift for when in ready], found)
        begin = ended + shift + tail
    return begin - begin_before


def needed_by(found, place, blocks):
    """Numbers of the buckets that the embedding (0), or a block, needs."""
    numbers = set()
    for number, names in enumerate(found["buckets"]):
        inside = {int(n.split(".")[2]) for n in names if n.startswith("transformer.h.")}
        outside = any(not n.startswith("transformer.h.") for n in names)
        if (place == 0 and outside) or (place - 1) in inside:
            numbers.add(number)
    return numbers


def measure(pair, mbit, preset, options, blocks):
    """One line."""
    pair.set_rate(mbit)
    how = {"preset": preset, "options": options, "deadline": 300.0}
    with NetworkPairPool(pair, timeout=120.0) as pool:
        results = pool.run(measured, blocks=blocks, **how)
    found = max(results, key=lambda result: result["step"] + result["extra"])  # the slower rank's
    talking, ideal = sum(found["seconds"]), ideal_step(found, found["ahead"])
    can, hidden = found["step"] + talking - ideal, talking - found["extra"]
    order = "needed first" if options["priority"] else "buckets"
    print(
        f"{mbit:6} {preset:6} {order:13}{found['bucket_bytes'] >> 10:7}{found['step'] * 1e3:10.0f} "
        f"{talking * 1e3:9.0f} {(found['step'] + found['extra']) * 1e3:9.0f} {ideal * 1e3:9.0f}"
        f"{can * 1e3:9.0f} {hidden * 1e3:9.0f} {hidden / can:8.0%}",
        flush=True,
    )


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mbit", default="1000,100")
    parser.add_argument("--presets", default="nano")
    parser.add_argument("--batch", type=int, default=0, help="contexts in a step, both workers'")
    parser.add_argument("--blocks", type=int, default=5)
    given = parser.parse_args()
    print(
        f"{'Mbit/s':>6} {'model':6} {'order':13}{'KiB':>7}{'computing':>10} {'talking':>9} "
        f"{'step':>9} {'ideal':>9}{'can hide':>9} {'hidden':>9} {'of it':>8}   (ms)"
    )
    with NetworkPair() as pair:
        for mbit in map(int, given.mbit.split(",")):
            for preset in given.presets.split(","):
                for priority in (False, True):
                    options = {"priority": priority, "clip": 0.0}
                    if given.batch:
                        options["batch_size"] = given.batch
                    measure(pair, mbit, preset, options, given.blocks)


if __name__ == "__main__":
    import os

    os.environ.update(ONE_THREAD)
    main()
