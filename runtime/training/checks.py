"""What is checked on all ranks together: their data, the folder, and that numbers are finite."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ringlet.comm import Group
from ringlet.nn import mkl
from ringlet.nn.backend import xp
from ringlet.nn.flat import Flat
from ringlet.nn.optim import FlatOptimizer
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.checkpoint.state import TrainingState
from ringlet.runtime.training.corpus import Corpus, DataError

SEEN_S = 2.0
"""How late a network file system may show a new file to the other hosts."""


def check_same_data(world: Group, corpus: Corpus) -> None:
    """Raise DataError on every rank unless all have read the same tokens (a collective).

    The built-in text differs between versions of Python.
    """
    digests = world.all_gather_object(corpus.digest())
    others = [rank for rank, each in enumerate(digests) if each != digests[0]]
    if others:
        raise DataError(
            f"the text {corpus.name} that rank 0 has read is not what {_ranks(others)} read: give "
            "every host the same file (--data), or for the built-in text the same version of Python"
        )


def compare_products(world: Group, warn: Callable[[str], None]) -> None:
    """Tell on rank 0 if not all ranks multiply with the same library (a collective)."""
    found = world.all_gather_object(mkl.description())
    if world.rank == 0 and len(set(found)) > 1:
        parts = [
            f"{name} on {_ranks([rank for rank, each in enumerate(found) if each == name])}"
            for name in sorted(set(found))
        ]
        warn(
            f"large products are computed by {', by '.join(parts)}: the result depends on which "
            f"ranks these are. {mkl.VARIABLE}=numpy on all hosts, or {mkl.NEEDED} on all, makes "
            "them alike"
        )


def check_shared(world: Group, folder: Path, state: TrainingState) -> None:
    """Raise CheckpointError on all ranks unless all that save see rank 0's folder (a collective).

    With plain data parallelism only rank 0 does; otherwise all shards must go to the same folder,
    which on several hosts has to be on a network file system.
    """
    mine = next(state.pieces(), None) is not None
    mine |= any(extras.owned and bool(extras.arrays) for extras in state.extras.values())
    probe = folder / f".ringlet-{world.broadcast_object(time.time_ns())}"
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    world.barrier()
    until = time.monotonic() + SEEN_S
    while mine and not probe.exists() and time.monotonic() < until:
        time.sleep(0.05)
    blind = world.all_gather_object(mine and not probe.exists())
    if world.rank == 0:
        probe.unlink(missing_ok=True)
    others = [rank for rank, each in enumerate(blind) if each]
    if others:
        raise CheckpointError(
            f"{_ranks(others)} cannot see rank 0's folder {folder}, where on this mesh they must "
            "write parts of the checkpoint: use a file system that all hosts share, at the same "
            "path (--out). With plain data parallelism (dp alone, --zero 0) rank 0 writes "
            "everything, and no folder has to be shared"
        )


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


class NonFinite(ArithmeticError):
    """A step gave a loss, gradient or weight that is not a finite number; it was not saved."""


def blame(world: Group, flats: Sequence[Flat], numbers: Mapping[str, int]) -> str:
    """Say which parameter is to blame, with the same words on all ranks (a collective).

    One rank's memory may be wrong where the others' is right, and the sum of gradients spoils all
    of them. So every rank reports, and a bad value counts for more than a bad gradient. `numbers`
    are the parameters' positions in the model.
    """
    found = world.all_gather_object([_bad(flats, 0), _bad(flats, 1)])
    bad_values = [
        (numbers[name], rank, name) for rank, (bad, _) in enumerate(found) for name in bad
    ]
    if bad_values:
        _, rank, name = min(bad_values)
        return f"{name} holds a value that is not finite (rank {rank})"
    bad_gradients = [name for _, bad in found for name in bad]
    if bad_gradients:
        nearest = max(bad_gradients, key=numbers.__getitem__)  # to the loss
        return f"the first gradient of backward that is not finite is {nearest}'s"
    return "every parameter and gradient is finite by itself: a sum overflowed"


def _bad(flats: Sequence[Flat], which: int) -> list[str]:
    """The parameters whose values (0) or gradients (1) are not all finite."""
    return [
        slot.name
        for flat in flats
        for slot in flat.slots
        if not xp.isfinite(flat.views(slot.start, slot.stop)[which]).all()
    ]


def all_finite(world: Group, flats: Iterable[Flat], optimizers: Iterable[FlatOptimizer]) -> bool:
    """Whether all that a checkpoint would hold is finite, on every rank (a collective)."""
    arrays = [flat.views(start, stop)[0] for flat in flats for start, stop in flat.segments]
    arrays += [state for optimizer in optimizers for state in optimizer.state.values()]
    bad = np.array([not all(xp.isfinite(array).all() for array in arrays)], np.int8)
    world.all_reduce(bad, op="max", label="finite")
    return not bad[0]
