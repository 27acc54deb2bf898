"""A step over a slow link, and the time to a loss: ringlet's compressors beside PyTorch's DDP.

    PEERS=$(bash benchmarks/peers/setup.sh)                 # once; makes the peers' environment
    python benchmarks/slow_links.py --python "$PEERS/python"            # both links, all ways
    python benchmarks/slow_links.py --mbit 1000 --ways plain,float16,ddp:float16 --out rows.jsonl
    python benchmarks/slow_links.py --show rows.jsonl       # a table of what several runs appended
    python benchmarks/slow_links.py --loss --mbit 1000      # steps to a validation loss as well

Two workers on two hosts (network namespaces joined by a token-bucket filter; needs root), each with
one thread of BLAS on a core of its own, and with the allocator's settings of `ringlet run`. All
train the same GPT on the same batches. PyTorch's side is DistributedDataParallel with Gloo: plain,
with its float16 hook, with its PowerSGD hook of the same rank; `ddp@4` has buckets of 4 MB in place
of its own 25. `alone` and `ddp:alone` are a step of both workers at once, each on its half of the
batch, that sends nothing. The ways run in turns, a few steps each; a cell is the median step of the
slower worker, and its spread the middle half of the steps.

What a way learns in a step depends on no clock: for `--loss` each is trained once, as fast as the
machine goes, and its time is the number of steps times the median step.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from network_pair import PORT, NetworkPair, NetworkPairPool
from peer_programs import DEFAULT_PEERS, ONE_THREAD
from time_to_loss import steps_to

from ringlet.launcher.supervisor.environment import ALLOCATOR
from ringlet.runtime import Trainer, load_corpus, make_config
from ringlet.runtime.compression.schemes import parse
from ringlet.runtime.training.corpus import validation_offsets

RINGLET = ("alone", "plain", "zero1", "float16", "bfloat16", "int8", "powersgd:4")
PEERS = ("ddp:alone", "ddp", "ddp@4", "ddp:float16", "ddp:powersgd")
WAYS = (*RINGLET, "priority", "zero2", "zero3", *PEERS)
PEER = Path(__file__).resolve().parent / "peers/ddp.py"
WARM_UP = 3
BLOCK = 12
"""Steps between validations of `--loss`."""

COMMON = {"clip": 0.0, "warmup_steps": 24, "learning_rate": 1e-3, "learning_rate_floor": 1e-3}
COMMON |= {"eval_windows": 128}

_trainers = {}


class PinnedPool(NetworkPairPool):
    """Each rank has a core of its own."""

    def _prefix(self, rank):
        return [*super()._prefix(rank), "taskset", "-c", str(rank)]


def make_trainer(world, way, preset, batch, seed, steps):
    """The trainer of one way."""
    options = {**COMMON, "batch_size": batch, "seed": seed}
    options |= {"steps": steps, "checkpoint_every": steps}
    if way == "alone":
        world = world.split([world.rank])
        options["batch_size"] = batch // 2
    elif way == "priority":
        options["priority"] = True
    elif way.startswith("zero"):
        options["zero"] = int(way[-1])
    elif way != "plain":
        options["compress"] = way
    config = make_config(preset, None, options)
    corpus = load_corpus("pydoc", config.block_size, config.vocab_size or None)
    return Trainer(config, corpus, world)


def ready(world, way, **sizes):
    """Make a trainer, on the link as it is, and warm it up; returns the bytes of its buckets."""
    _trainers[way] = trainer = make_trainer(world, way, steps=10_000, **sizes)
    seconds_of(world, way, WARM_UP)
    return getattr(trainer.parallel.gradient_groups[0].reducer, "bucket_bytes", 0)


def seconds_of(world, way, steps):
    """The seconds of so many steps in a row."""
    found, trainer = [], _trainers[way]
    world.barrier()
    for _ in range(steps):
        started = time.perf_counter()
        trainer._train_step()
        found.append(time.perf_counter() - started)
    trainer.parallel.complete()
    return found


def forget(world):
    """Drop the trainers."""
    _trainers.clear()


def learnt(world, way, target, most, **sizes):
    """Validation losses after each block, until the target or `most` steps."""
    trainer = make_trainer(world, way, steps=most, **sizes)
    losses = [trainer.evaluate()]
    while losses[-1] > target and trainer.step < most:
        for _ in range(BLOCK):
            trainer._train_step()
        trainer.parallel.complete()
        losses.append(trainer.evaluate())
    return losses


def export(world, batch, most, folder, **sizes):
    """Rank 0 writes what the peers train with: parameters, tokens, batches, learning rates."""
    trainer = make_trainer(world, "plain", batch=batch, steps=most, **sizes)
    if world.rank:
        return
    config, corpus = trainer.config, trainer.corpus
    named = {f"parameter:{n}": p.data for n, p in trainer.parallel.model.named_parameters()}
    offsets = [trainer._sampler.offsets(step, 0, batch) for step in range(most)]
    np.savez(
        folder / "run.npz",
        train=np.asarray(corpus.train),
        validation=np.asarray(corpus.validation),
        offsets=np.array(offsets),
        validation_offsets=validation_offsets(corpus, config.block_size, config.eval_windows),
        learning_rates=[trainer._learning_rate(step) for step in range(most)],
        heads=config.n_head,
        block=config.block_size,
        betas=[config.beta1, config.beta2],
        weight_decay=config.weight_decay,
        **named,
    )


class Peers:
    """PyTorch's two processes, which take one command at a time."""

    def __init__(self, pair, python, folder):
        self._processes = []
        for rank in range(2):
            environment = {**os.environ, **ONE_THREAD, **ALLOCATOR, "GLOO_SOCKET_IFNAME": "link0"}
            environment |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(PORT + 1)}
            environment["MASTER_ADDR"] = NetworkPair.addresses[0]
            words = [*pair.enter(rank), "taskset", "-c", str(rank)]
            words += [str(python), str(PEER), str(folder)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._processes.append(subprocess.Popen(words, env=environment, **pipes))

    def run(self, **command):
        """What both answer."""
        for process in self._processes:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in self._processes]
        if not all(answers):
            sys.exit(f"PyTorch's side failed at {command}")
        return [json.loads(answer) for answer in answers]

    def close(self):
        """End them."""
        for process in self._processes:
            process.stdin.close()
        for process in self._processes:
            process.wait()


class Sides:
    """Both sides under one face; PyTorch's starts if a way asks for it."""

    def __init__(self, pair, given, stack):
        self._given, self._peers = given, None
        self._pool = stack.enter_context(PinnedPool(pair, timeout=120.0))
        if any(way.startswith("ddp") for way in given.ways):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._run(export, most=given.steps, folder=folder)
            self._peers = Peers(pair, given.python, folder)
            stack.callback(self._peers.close)

    def _run(self, function, **how):
        sizes = {name: getattr(self._given, name) for name in ("preset", "batch", "seed")}
        return self._pool.run(function, deadline=600.0, **sizes, **how)

    def ready(self, way):
        """Prepare a way on the link as it is."""
        if way.startswith("ddp"):
            self._peers.run(do="ready", way=way, steps=WARM_UP)
        else:
            self._run(ready, way=way)

    def seconds(self, way, steps):
        """Of so many steps in a row, each the slower worker's."""
        if way.startswith("ddp"):
            found = self._peers.run(do="seconds", way=way, steps=steps)
        else:
            found = self._pool.run(seconds_of, deadline=600.0, way=way, steps=steps)
        return np.max(found, axis=0).tolist()

    def forget(self):
        """Drop what `ready` has prepared."""
        self._pool.run(forget)
        if self._peers is not None:
            self._peers.run(do="forget")

    def losses(self, way, target, most):
        """Validation losses after each block of steps."""
        if way.startswith("ddp"):
            return self._peers.run(do="learn", way=way, target=target, most=most, block=BLOCK)[0]
        return self._run(learnt, way=way, target=target, most=most)[0]


def measure(pair, sides, given, keep):
    """Seconds of steps, the ways in turns, on each link."""
    for mbit in given.mbit:
        pair.set_rate(mbit)
        for way in given.ways:
            sides.ready(way)
        for _ in range(given.rounds):
            for way in given.ways:
                seconds = sides.seconds(way, given.in_turn)
                keep({"mbit": mbit, "batch": given.batch, "way": way, "seconds": seconds})
        sides.forget()
    pair.set_rate(None)


def learn(sides, given, keep):
    """Losses of all ways that send something."""
    for way in given.ways:
        # ddp@4 learns what ddp learns, zero1 what plain does.
        if not way.endswith("alone") and way not in ("ddp@4", "zero1"):
            losses = sides.losses(way, given.target, given.steps)
            keep({"batch": given.batch, "way": way, "losses": losses, "target": given.target})
            print(f"{way:14} {' '.join(f'{loss:.3f}' for loss in losses)}", file=sys.stderr)


def show(rows):
    """One line for each way: its step on each link, beside no link, plain, and DDP's like."""
    seconds, losses = {}, {}
    for row in rows:
        if "seconds" in row:
            key = row["batch"], row["mbit"]
            seconds.setdefault(key, {}).setdefault(row["way"], []).extend(row["seconds"])
        else:
            losses[row["batch"], row["way"]] = row
    for (batch, mbit), found in seconds.items():
        step = {way: statistics.median(each) for way, each in found.items()}
        print(f"\n{mbit} Mbit/s, {batch} contexts in a step")
        heads = f"{'/ alone':>9}{'plain /':>9}{'DDP /':>9}"
        print(f"{'':14}{'step':>11}{'middle half':>20}{heads}")
        for way, each in found.items():
            low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
            line = f"{way:14}{step[way] * 1e3:8.0f} ms{f'{low * 1e3:.0f} to {high * 1e3:.0f}':>20}"
            ddp = way.startswith("ddp")
            side = "ddp:" if ddp else ""
            alone, plain = step.get(f"{side}alone"), step.get("ddp" if ddp else "plain")
            like = None if ddp else step.get(peer_of(way))
            ratios = [alone and step[way] / alone, plain and plain / step[way]]
            ratios += [like and like / step[way]]
            for ratio in [] if way.endswith("alone") else ratios:
                line += f"{'':9}" if ratio is None else f"{ratio:9.2f}"
            learnt = losses.get((batch, "ddp" if way == "ddp@4" else way))
            if learnt is not None:
                count = steps_to(learnt["losses"], learnt["target"], BLOCK)
                text = f"never, at {learnt['losses'][-1]:.2f}"
                if count is not None:
                    text = f"{count:5.0f} steps {count * step[way]:6.1f} s to {learnt['target']}"
                line += f"   {text}"
            print(line)


def peer_of(way):
    """The way of PyTorch's that a way of ringlet's is compared with: its own like, or plain."""
    name = way.partition(":")[0].removeprefix("b")
    return f"ddp:{name}" if f"ddp:{name}" in PEERS else "ddp"


def main():
    """Measure, append, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mbit", default="1000,100", help="default: %(default)s")
    parser.add_argument("--ways", default=",".join((*RINGLET, *PEERS)), help="default: %(default)s")
    parser.add_argument("--preset", default="small", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="contexts in a step of both workers")
    parser.add_argument("--seed", type=int, default=1337, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--in-turn", type=int, default=3, help="steps in a row")
    parser.add_argument("--python", default=DEFAULT_PEERS / "python", help="the peers' interpreter")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to append to")
    parser.add_argument("--show", type=Path, help="print the table of such a file")
    parser.add_argument("--loss", action="store_true", help="train each way to --target, too")
    parser.add_argument("--target", type=float, default=2.6, help="validation loss, nats a byte")
    parser.add_argument("--steps", type=int, default=360, help="at most, for --loss")
    given = parser.parse_args()
    rates, given.ways = [rate for rate in given.mbit.split(",") if rate], given.ways.split(",")
    if not all(rate.isdecimal() and int(rate) for rate in rates):
        parser.error(f"--mbit is {given.mbit}; it takes whole numbers above 0, as 1000,100")
    given.mbit = [int(rate) for rate in rates]
    for way in set(given.ways) - set(WAYS):
        try:
            parse(way)
        except ValueError as error:
            parser.error(f"--ways has {way!r}, which is none of {', '.join(WAYS)}: {error}")
    rows = []

    def keep(row):
        rows.append(row)
        if given.out:
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")

    if given.show is None:
        with NetworkPair() as pair, contextlib.ExitStack() as stack:
            sides = Sides(pair, given, stack)
            measure(pair, sides, given, keep)
            if given.loss:
                learn(sides, given, keep)
    else:
        rows = [json.loads(line) for line in given.show.read_text().splitlines()]
    show(rows)


if __name__ == "__main__":
    os.environ.update(ONE_THREAD)
    main()
