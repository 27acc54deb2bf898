"""Ranks whose backend is the stand-in for CuPy (tests/fake/cupy/core.py)."""

import contextlib
import sys
from pathlib import Path

from small_runs import run_to_the_end

from ringlet.nn import backend

FAKE = str(Path(__file__).parents[1] / "fake")
TINY = {
    "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, "batch_size": 8, "steps": 4,
    "eval_every": 4, "eval_windows": 8, "checkpoint_every": 4, "warmup_steps": 1,
    "bucket_bytes": 1 << 14,
}  # fmt: skip


@contextlib.contextmanager
def on_device():
    """Within it this rank's backend is the fake CuPy."""
    sys.path.insert(0, FAKE)
    try:
        with backend.substituted(backend.CuPy()) as present:
            yield present.module
    finally:
        sys.path.remove(FAKE)


def trained(world, folder=None, **options):
    """The losses of a run, on whatever is the backend."""
    _, rows = run_to_the_end(world, TINY, folder, **options)
    return [row[key] for row in rows for key in ("loss", "grad_norm", "val_loss") if row.get(key)]
