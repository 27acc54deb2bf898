"""The folder of a run: made, locked while the run goes on, and read."""

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ringlet.launcher.errors import UserError, make_folder
from ringlet.nn.files import lock
from ringlet.runtime.checkpoint.checkpoint import Checkpoint, checkpoints, latest_checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.training.export import check_run
from ringlet.runtime.training.metrics import METRICS
from ringlet.runtime.training.record import RUN
from ringlet.runtime.training.start import CONFIG
from ringlet.runtime.training.tokenizers import TOKENIZER
from ringlet.runtime.training.trainer import CHECKPOINTS

LOCK = ".lock"

Read = TypeVar("Read")


class RunFolder:
    """A run's folder, which no other run can take before `close` or the end of this process,
    however it ends. Raises UserError if it cannot be had."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path, "--out")
        if not any((path / name).exists() for name in (RUN, CHECKPOINTS)):
            for name in (CONFIG, TOKENIZER):  # of a model, or of tokens
                if (path / name).exists():
                    raise UserError(f"{path} holds {name} already: choose another --out")
        self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock(self._lock)
        except BlockingIOError as error:
            holder = os.read(self._lock, 200).decode(errors="replace").strip()
            self.close()
            raise UserError(
                f"{path} is in use by another run ({holder}): wait for its end, or choose another "
                "--out"
            ) from error
        with contextlib.suppress(OSError):  # a full disk
            os.ftruncate(self._lock, 0)
            os.write(self._lock, f"pid {os.getpid()} on {socket.gethostname()}".encode())

    @classmethod
    def new(cls, out: Path | None, name: str) -> "RunFolder":
        """The folder `out`, unless it holds another run, or by default the first one in runs/ that
        is not there yet."""
        if out is not None:
            _refuse_another_run(out)
            folder = cls(out)
            try:
                _refuse_another_run(out)  # one that began and ended meanwhile
            except UserError:
                folder.close()
                raise
            return folder
        make_folder(Path("runs"), "--out")
        for number in itertools.count(1):
            path = Path("runs", name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return cls(path)
        raise AssertionError("counts for ever")

    def close(self) -> None:
        """Let others take it."""
        os.close(self._lock)


def _refuse_another_run(out: Path) -> None:
    if (out / METRICS).exists() or (out / CHECKPOINTS).exists():
        raise UserError(
            f"{out} holds another run; continue it with --resume, or choose another --out"
        )


def newest_checkpoint(run: Path) -> Checkpoint:
    """The newest checkpoint of the run in this folder; raises UserError if there is none."""
    folder, seen = run / CHECKPOINTS, None
    while seen != (present := checkpoints(folder)):  # a run may be replacing them
        found, seen = latest_checkpoint(folder, warn, check_run), present
        if found is not None:
            return found
    raise UserError(f"there is no checkpoint in {run}")


def read_newest(run: Path, read: Callable[[Checkpoint], Read]) -> Read:
    """What `read` makes of the run's newest checkpoint, or of a newer one if the run removes that
    meanwhile. Raises UserError, and what `read` raises."""
    found = newest_checkpoint(run)
    while True:
        try:
            return read(found)
        except CheckpointError:
            before, found = found, newest_checkpoint(run)
            if found.step <= before.step:
                raise


def warn(text: str) -> None:
    """Tell the user what was skipped."""
    print(text, file=sys.stderr)
