"""What data parallelism costs: a step of 2 workers against one worker's on half of the batch.

    python benchmarks/data_parallel.py [--presets wide,baby] [--transports auto,ipc] [--steps 10]

One BLAS thread for each worker. Three kinds of steps in turns, on the same processes: "alone", one
worker with the machine to itself; "side by side", two workers that do not talk, each on half of the
batch, which share caches and memory as in data parallelism; "together", data parallelism. Figures
are medians; ratios are medians of the ratios of consecutive steps. Two more are disturbed less by
other work on the machine: "fastest", the ratio of the fastest steps, together and side by side, and
"processor", that of the processor's time. With auto the gradients go through shared memory, with
ipc through sockets.
"""

import argparse
import os
import time

import numpy as np
from peer_programs import ONE_THREAD

from ringlet.launcher.testing.pool import WorkerPool
from ringlet.runtime import Trainer, load_corpus, make_config

WARM_UP = 2


def step_seconds(world, preset, steps):
    """Seconds of this rank's steps, and the processor's: (steps, 3, 2), of the kinds in turn; 0
    where it took none."""
    config = make_config(preset)
    half = make_config(preset, None, {"batch_size": config.batch_size // 2})
    corpus = load_corpus("pydoc", config.block_size, config.vocab_size or None)
    single = Trainer(half, corpus, world.split([world.rank]))
    together = Trainer(config, corpus, world)
    rows = []
    for _ in range(steps + WARM_UP):
        row = []
        for trainer, here in ((single, world.rank == 0), (single, True), (together, True)):
            world.barrier()
            started, busy = time.perf_counter(), time.process_time()
            if here:
                trainer._train_step()
            found = time.perf_counter() - started, time.process_time() - busy
            row.append(found if here else (0.0, 0.0))
        rows.append(row)
    return np.array(rows[WARM_UP:])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="wide,baby")
    parser.add_argument("--transports", default="auto,ipc")
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    os.environ.update(ONE_THREAD)
    print(
        f"{'':14}{'alone':>9}{'side by side':>14}{'together':>10}{'/ alone':>9}{'/ side':>8}"
        f"{'fastest':>9}{'processor':>11}"
    )
    for transport in given.transports.split(","):
        with WorkerPool(2, transport, timeout=120.0) as pool:
            for preset in given.presets.split(","):
                how = {"preset": preset, "steps": given.steps, "deadline": 600.0}
                found = np.max(pool.run(step_seconds, **how), axis=0)  # the slower rank's
                seconds, busy = found[..., 0], found[..., 1]
                alone, side, together = np.median(seconds, axis=0) * 1e3
                ratios = np.median(seconds[:, 2:] / seconds[:, :2], axis=0)
                fastest = np.min(seconds[:, 2]) / np.min(seconds[:, 1])
                processor = np.median(busy[:, 2] / busy[:, 1])
                print(
                    f"{preset:8}{transport:6}{alone:7.0f}ms{side:12.0f}ms{together:8.0f}ms"
                    f"{ratios[0]:9.3f}{ratios[1]:8.3f}{fastest:9.3f}{processor:11.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
