"""What data parallelism costs: a step of 2 workers against one worker's on half of the batch.

    python benchmarks/data_parallel.py [--presets wide,baby] [--rounds 7] [--steps 10]

One BLAS thread for each worker. Rounds alternate; figures are medians. "alone" is one worker with
the machine to itself; "side by side" two workers that do not know of each other, each on half of
the batch: they share caches and memory as the two of data parallelism do, which add only what
they say to each other.
"""

import argparse
import statistics
import time

import numpy as np

from ringlet.comm import Group
from ringlet.launcher.pool import WorkerPool
from ringlet.runtime import Trainer, load_corpus, make_config


def step_seconds(world: Group, preset: str, steps: int, together: bool, transport: str = ""):
    """Median seconds of a training step, without clipping's and the loss's sums."""
    config = make_config(preset, None, {"clip": 1.0})
    corpus = load_corpus("pydoc", config.block_size, config.vocab_size or None)
    if not together:
        world = world.split([world.rank]) or world
        config = make_config(preset, None, {"batch_size": config.batch_size // 2})
    trainer = Trainer(config, corpus, world)
    seconds = []
    for step in range(steps + 2):
        started = time.perf_counter()
        trainer._train_step()
        if step > 1:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="wide,baby")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    print(f"{'':8}{'alone':>10}{'side by side':>14}{'together':>10}{'/ alone':>9}{'/ side':>8}")
    with WorkerPool(1) as one, WorkerPool(2) as two:
        for preset in given.presets.split(","):
            found: dict[str, list[float]] = {"alone": [], "side": [], "together": []}
            for _ in range(given.rounds):
                how = {"preset": preset, "steps": given.steps, "deadline": 300}
                found["alone"] += one.run(step_seconds, together=False, **how)
                found["side"].append(max(two.run(step_seconds, together=False, **how)))
                found["together"].append(max(two.run(step_seconds, together=True, **how)))
            alone, side, together = (float(np.median(values)) for values in found.values())
            print(
                f"{preset:8}{alone * 1e3:8.1f}ms{side * 1e3:12.1f}ms{together * 1e3:8.1f}ms"
                f"{together / alone:9.3f}{together / side:8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
