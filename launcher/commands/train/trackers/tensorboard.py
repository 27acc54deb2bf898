"""A training run's metrics as TensorBoard event files, written by tensorboardX."""

import os
import time
from pathlib import Path
from typing import Any

from ringlet.launcher.commands.train.trackers.tags import FLUSH_S, tagged
from ringlet.launcher.errors import make_folder, user_errors
from ringlet.runtime.training.callbacks import Callback, Facts


class EventFiles(Callback):
    """A run that is resumed begins another file, which says from which step on earlier ones are
    obsolete. Raises UserError if the folder cannot be made."""

    def __init__(self, folder: Path) -> None:
        with user_errors(ImportError):
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2

        # Its SummaryWriter has a thread, which dies on a full disk and leaves its callers waiting.
        self._make: Any = event_file_writer.EventsWriter
        self._scalar, self._kinds = summary.scalar, event_pb2
        self._folder, self._number = folder, 0
        self._writer: Any = None
        self._flushed = 0.0
        make_folder(folder, "--tensorboard")

    def start(self, facts: Facts) -> None:
        self._close()
        self._number += 1
        self._writer = self._make(str(self._folder / "events"), f".{os.getpid()}.{self._number}")
        start = self._kinds.SessionLog(status=self._kinds.SessionLog.START)
        self._event(facts["step"] + 1 if facts["step"] else 0, session_log=start)

    def step(self, facts: Facts) -> None:
        for tag, value in tagged(facts).items():
            self._event(facts["step"], summary=self._scalar(tag, value))
        if time.monotonic() >= self._flushed + FLUSH_S:
            self._flushed = time.monotonic()
            self._writer.flush()

    def evaluation(self, facts: Facts) -> None:
        if not facts["step"]:  # later ones are in the step's row
            self.step(facts)

    def end(self, facts: Facts) -> None:
        self._close()

    def failure(self, facts: Facts) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _event(self, step: int, **what: Any) -> None:
        self._writer.write_event(self._kinds.Event(wall_time=time.time(), step=step, **what))
