"""What the hosts of a run have to have in common besides a network: the data, and the folder."""

import hashlib
import time
from pathlib import Path

from ringlet.comm import Group
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.checkpoint.state import TrainingState
from ringlet.runtime.training.corpus import Corpus, DataError

SEEN_S = 2.0
"""A network file system may show a new file to the other hosts so late."""


def check_same_data(world: Group, corpus: Corpus) -> None:
    """Raise DataError on every rank unless all have read the same tokens (a collective).

    The built-in text is not the same in every version of Python.
    """
    digest = hashlib.sha256(corpus.train.tobytes() + corpus.validation.tobytes()).hexdigest()
    digests = world.all_gather_object(digest)
    others = [rank for rank, each in enumerate(digests) if each != digests[0]]
    if others:
        raise DataError(
            f"the text {corpus.name} that rank 0 has read is not what {_ranks(others)} read: give "
            "every host the same file (--data), or the same version of Python for the built-in one"
        )


def check_shared(world: Group, folder: Path, state: TrainingState) -> None:
    """Raise CheckpointError on every rank unless all that have something to save write into rank
    0's folder (a collective).

    With plain data parallelism only rank 0 has; shards of other ranks have to come to the same
    folder, which on several hosts is one of a network file system.
    """
    mine = next(state.pieces(), None) is not None
    mine |= any(extras.owned and bool(extras.arrays) for extras in state.extras.values())
    probe = folder / f".ringlet-{world.broadcast_object(time.time_ns())}"
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    world.barrier()
    blind = world.all_gather_object(mine and not _appears(probe))
    if world.rank == 0:
        probe.unlink(missing_ok=True)
    others = [rank for rank, each in enumerate(blind) if each]
    if others:
        raise CheckpointError(
            f"{_ranks(others)} cannot see rank 0's folder {folder}, and on this mesh will have "
            "parts of the checkpoint to write there: it has to be on a file system that all hosts "
            "share, at the same path (--out). With plain data parallelism (dp alone, --zero 0) "
            "rank 0 writes everything, and no folder has to be shared"
        )


def _appears(path: Path) -> bool:
    until = time.monotonic() + SEEN_S
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
