"""Seconds until a validation loss on a slow link: plain sums, compressed ones, local steps.

    python benchmarks/time_to_loss.py --out docs/pictures/time_to_loss.svg

Two workers on two hosts (network namespaces; needs root), one BLAS thread each, the preset `tiny`
on Python's documentation; every way has the same model, batches and learning rate. What a way
learns in a step depends on no clock: each is trained once, as fast as the machine goes, until its
validation loss is below the target. What a step takes is then measured on each link, the ways in
turns, `--rounds` times; a way's time is its number of steps times the median. Validation is not in
it.
"""

import argparse
import itertools
import os
import statistics
import time
from pathlib import Path

from network_pair import NetworkPair, NetworkPairPool
from peer_programs import ONE_THREAD

from ringlet.runtime import Trainer, load_corpus, make_config

WAYS = {
    "plain": {},
    "needed first": {"priority": True},
    "float16": {"compress": "float16"},
    "int8": {"compress": "int8"},
    "topk:0.01": {"compress": "topk:0.01"},
    "powersgd:4": {"compress": "powersgd:4"},
    "8 local steps": {"local_steps": 8},
    "DiLoCo, 8 steps": {"local_steps": 8, "outer_learning_rate": 0.7, "outer_momentum": 0.9},
}

BLOCK = 24
"""Steps between validations, a multiple of the local steps."""


def make_trainer(world, way, steps):
    """A trainer for one way; the learning rate stays as it is after the warm-up."""
    common = {"clip": 0.0, "eval_windows": 256, "warmup_steps": 24}
    common |= {"learning_rate": 3e-3, "learning_rate_floor": 3e-3}
    rounds = {"steps": steps, "checkpoint_every": steps}
    config = make_config("tiny", None, {**common, **rounds, **way})
    return Trainer(config, load_corpus("pydoc", config.block_size, None), world)


def block(trainer):
    """Take BLOCK steps, to their very end; returns the seconds."""
    trainer.world.barrier()
    started = time.perf_counter()
    for _ in range(BLOCK):
        trainer._train_step()
    trainer.parallel.complete()
    return time.perf_counter() - started


def learn(world, way, target, most):
    """Validation losses after each block until the target or `most` steps; bytes of a step."""
    trainer = make_trainer(world, way, most)
    losses = [trainer.evaluate()]
    sent = trainer.mesh.bytes_sent()
    block(trainer)
    sent = trainer.mesh.bytes_sent() - sent
    losses.append(trainer.evaluate())
    while losses[-1] > target and trainer.step < most:
        block(trainer)
        losses.append(trainer.evaluate())
    return {"losses": losses, "bytes": sent / BLOCK}


def step_seconds(world, way):
    """Seconds of a step, after a block to warm up."""
    trainer = make_trainer(world, way, 2 * BLOCK)
    block(trainer)
    return block(trainer) / BLOCK


def steps_to(losses, target, block=BLOCK):
    """After how many steps the loss crosses the target, between two validations; None: never."""
    for number, (before, after) in enumerate(itertools.pairwise(losses)):
        if after <= target:
            return block * (number + (before - target) / (before - after))
    return None


def measure(pair, given):
    """{way: what `learn` returns}, {Mbit/s: {way: seconds of a step}}"""
    with NetworkPairPool(pair, timeout=120.0) as pool:
        learnt = {}
        for name, way in WAYS.items():
            how = {"way": way, "target": given.target, "most": given.steps}
            learnt[name] = pool.run(learn, deadline=600.0, **how)[0]
        seconds = {}
        for mbit in map(int, given.mbit.split(",")):
            pair.set_rate(mbit)
            found = {name: [] for name in WAYS}
            for _ in range(given.rounds):
                for name, way in WAYS.items():
                    found[name].append(max(pool.run(step_seconds, deadline=600.0, way=way)))
            seconds[mbit] = {name: statistics.median(times) for name, times in found.items()}
    return learnt, seconds


def report(learnt, seconds, target):
    """One line for each way."""
    head = "".join(f"{f'{mbit} Mbit/s':>24}" for mbit in seconds)
    print(f"{f'loss {target}':16}{'steps':>7}{'kB/step':>9}{head}")
    for name, found in learnt.items():
        steps = steps_to(found["losses"], target)
        line = f"{name:16}{'never' if steps is None else round(steps):>7}"
        line += f"{found['bytes'] / 1e3:9.1f}"
        for times in seconds.values():
            line += f"{times[name] * 1e3:9.1f} ms"
            if steps is None:
                line += f"   at {found['losses'][-1]:.2f}   "
                continue
            plain = steps_to(learnt["plain"]["losses"], target) * times["plain"]
            total = steps * times[name]
            line += f"{total:6.1f} s {plain / total:4.1f}x"
        print(line)


def main():
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mbit", default="100,1000")
    parser.add_argument("--target", type=float, default=2.5, help="validation loss, nats a byte")
    parser.add_argument("--steps", type=int, default=2400, help="at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="an SVG of loss over time")
    given = parser.parse_args()
    with NetworkPair() as pair:
        learnt, seconds = measure(pair, given)
    report(learnt, seconds, given.target)
    if given.out:
        from loss_picture import picture  # not needed where workers load this file

        panels = {
            f"{mbit} Mbit/s": {
                name: [(n * BLOCK * times[name], y) for n, y in enumerate(found["losses"])]
                for name, found in learnt.items()
            }
            for mbit, times in seconds.items()
        }
        given.out.write_text(picture(panels, given.target))


if __name__ == "__main__":
    os.environ.update(ONE_THREAD)
    main()
