"""What of the gradients' time on a slow link is hidden behind computing, and what could be.

    python benchmarks/overlap.py                                # 1 Gbit/s and 100 Mbit/s
    python benchmarks/overlap.py --mbit 100 --presets small --batch 16

Two workers on two hosts (network namespaces; needs root), one BLAS thread each. Measured, in
turns:

- `computing`: a step of both workers at once, each on its half of the batch, that says nothing;
  when each gradient becomes final in it, and when each block runs;
- `talking`: the sums of all buckets, alone, one after the other;
- `step`: the step of data parallelism.

*Hidden* is computing + talking - step. *Can be hidden* is what an ideal machine would hide with the
same order: a bucket leaves when it is final and the one before it has arrived, and computing and
talking do not slow each other. For `needed_first` a block's forward pass begins when its buckets
have arrived, and what is left is sent from the first layers on.
"""

import argparse
import statistics
import time

import numpy as np

from ringlet.launcher.link import Link, LinkedPool
from ringlet.runtime import Trainer, load_corpus, make_config

WARM_UP = 5
"""Steps before measuring: needed_first looks at its first four."""


def make_trainer(world, together, preset, options):
    """A trainer, of both ranks or of this one alone on its half of the batch."""
    config = make_config(preset, None, options)
    corpus = load_corpus("pydoc", config.block_size, config.vocab_size or None)
    if not together:
        world = world.split([world.rank])
        alone = {"batch_size": config.batch_size // 2, "needed_first": False}
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


def computing(world, steps, **how):
    """Medians of many steps: {step, forward: of embedding and each block, final: by name}."""
    trainer = make_trainer(world, False, **how)
    clock, rows = Clock(trainer), []
    for _ in range(steps + WARM_UP):
        clock.begun.clear()
        world.barrier()
        started = time.perf_counter()
        trainer._train_step()
        step = time.perf_counter() - started
        starts = [started, *clock.begun]
        begun = [when - started for when in starts]
        final = [clock.final[slot.name] - started for slot in clock.slots]
        rows.append([step, *begun, *final])
    middle = np.median(rows[WARM_UP:], axis=0).tolist()
    blocks = len(clock.begun)
    names = [slot.name for slot in clock.slots]
    return {
        "step": middle[0],
        "begun": middle[1 : 2 + blocks],
        "final": dict(zip(names, middle[2 + blocks :], strict=True)),
    }


def talking(world, rounds, **how):
    """Medians of the seconds that each bucket's sum takes alone; the buckets as names."""
    trainer = make_trainer(world, True, **how)
    reducer = trainer.parallel.families[0].reducer
    rows = []
    for _ in range(rounds + 1):
        world.barrier()
        last, row = time.perf_counter(), []
        works = [reducer._start(bucket, "alone") for bucket in reducer.buckets]
        for work in works:
            work.wait()
            row.append(time.perf_counter() - last)
            last = time.perf_counter()
        rows.append(row)
    buckets = [[slot.name for slot in bucket.slots] for bucket in reducer.buckets]
    return {"seconds": np.median(rows[1:], axis=0).tolist(), "buckets": buckets}


def bucket_bytes(world, **how):
    """The size that is measured for this link."""
    return make_trainer(world, True, **how).parallel.families[0].reducer.bucket_bytes


def stepping(world, steps, **how):
    """The median of the seconds of a step; how many buckets needed_first sends in backward."""
    trainer = make_trainer(world, True, **how)
    seconds = []
    for _ in range(steps + WARM_UP):
        started = time.perf_counter()
        trainer._train_step()
        seconds.append(time.perf_counter() - started)
    trainer.parallel.complete()
    ahead = getattr(trainer.parallel.families[0].reducer, "_ahead", None)
    return {"step": statistics.median(seconds[WARM_UP:]), "ahead": ahead}


def ideal_step(alone, talk, ahead):
    """Seconds of a step whose talking costs nothing but its time on the wire."""
    final = [max(alone["final"][name] for name in bucket) for bucket in talk["buckets"]]
    if ahead is None:
        return alone["step"] + max(0.0, deliver(range(len(final)), final, talk)[-1] - max(final))
    return ideal_needed_first(alone, talk, ahead, final)


def deliver(order, final, talk):
    """When each bucket, sent in this order once it is final, has arrived."""
    arrived, now = [0.0] * len(final), 0.0
    for number in order:
        now = max(now, final[number]) + talk["seconds"][number]
        arrived[number] = now
    return arrived


def ideal_needed_first(alone, talk, ahead, final):
    """The same, once one step's talking reaches into the next one's forward pass."""
    count, ended = len(final), max(final)
    order = [*range(ahead), *reversed(range(ahead, count))]
    ready = [final[n] if n < ahead else ended for n in range(count)]
    tail = alone["step"] - ended  # the optimizer, bucket by bucket, as needed
    begins = [*alone["begun"], ended]
    arrived, begin, begin_before = [0.0] * count, 0.0, 0.0
    for _ in range(8):
        begin_before, now, due = begin, begin, set(range(count))
        shifted = []
        for place, since in enumerate(begins[:-1]):
            needed = due & needed_by(talk, place, len(begins) - 2)
            due -= needed
            for number in needed:
                now = max(now, arrived[number])
            shifted.append(now)
            now += begins[place + 1] - since if place < len(begins) - 2 else 0.0
        shift = shifted[-1] - begins[-2]
        arrived = deliver(order, [when + shift for when in ready], talk)
        begin = ended + shift + tail
    return begin - begin_before


def needed_by(talk, place, blocks):
    """Numbers of the buckets that the embedding (0), or a block, needs."""
    found = set()
    for number, names in enumerate(talk["buckets"]):
        inside = {int(n.split(".")[2]) for n in names if n.startswith("transformer.h.")}
        outside = any(not n.startswith("transformer.h.") for n in names)
        if (place == 0 and outside) or (place - 1) in inside:
            found.add(number)
    return found


def measure(link, mbit, preset, options, rounds, steps):
    """One line: medians of `rounds` rounds."""
    link.set_rate(mbit)
    how = {"preset": preset, "options": options, "deadline": 300.0}
    rows = []
    with LinkedPool(link, timeout=120.0) as pool:
        size = pool.run(bucket_bytes, **how)[0]
        how["options"] = {**options, "bucket_bytes": size}  # the same in all that follows
        for _ in range(rounds):
            alone = slowest(pool.run(computing, steps=steps, **how))
            talk = slowest(pool.run(talking, rounds=3, **how))
            both = slowest(pool.run(stepping, steps=steps, **how))
            ideal = ideal_step(alone, talk, both["ahead"])
            rows.append([alone["step"], sum(talk["seconds"]), both["step"], ideal])
    compute, talk_s, step, ideal = np.median(rows, axis=0)
    hidden, can = compute + talk_s - step, compute + talk_s - ideal
    print(
        f"{mbit:6} {preset:6} {'needed first' if options['needed_first'] else 'buckets':13}"
        f"{size >> 10:7}"
        f"{compute * 1e3:10.0f} {talk_s * 1e3:9.0f} {step * 1e3:9.0f} {ideal * 1e3:9.0f}"
        f"{can * 1e3:9.0f} {hidden * 1e3:9.0f} {hidden / can:8.0%}",
        flush=True,
    )


def slowest(results):
    """That of the rank whose step, or sum, takes longest."""
    return max(results, key=lambda found: found.get("step") or sum(found["seconds"]))


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mbit", default="1000,100")
    parser.add_argument("--presets", default="nano")
    parser.add_argument("--batch", type=int, default=0, help="contexts in a step, both workers'")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    print(
        f"{'Mbit/s':>6} {'model':6} {'order':13}{'KiB':>7}{'computing':>10} {'talking':>9} "
        f"{'step':>9} {'ideal':>9}{'can hide':>9} {'hidden':>9} {'of it':>8}   (ms)"
    )
    with Link() as link:
        for mbit in map(int, given.mbit.split(",")):
            for preset in given.presets.split(","):
                for needed_first in (False, True):
                    options = {"needed_first": needed_first, "clip": 0.0}
                    if given.batch:
                        options["batch_size"] = given.batch
                    measure(link, mbit, preset, options, given.rounds, given.steps)


if __name__ == "__main__":
    import os

    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    main()
