"""A training run's metrics as TensorBoard event files, written by tensorboardX."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringlet.launcher.errors import make_folder, user_errors
from ringlet.launcher.supervisor.control import Notice

TAGS = {
    "loss": "loss/training",
    "val_loss": "loss/validation",
    "learning_rate": "optimizer/learning_rate",
    "grad_norm": "optimizer/grad_norm",
    "tokens_per_s": "speed/tokens_per_s",
    "step_s": "speed/step_s",
    "comm_s": "communication/seconds_waited",
    "comm_bytes": "communication/bytes_sent",
}
"""The metrics that are drawn, and their names in TensorBoard."""


FLUSH_S = 5.0


class EventFiles:
    """Takes rank 0's reports. A run that is resumed begins another file, which says from which step
    on earlier ones are obsolete. Raises UserError if the folder cannot be made. What cannot be
    written later ends the files, not the training: `warn(text)` is told."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        with user_errors(ImportError):  # now: it may take longer than other hosts wait for this one
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2

        # Its SummaryWriter has a thread, which dies on a full disk and leaves its callers waiting.
        self._make: Any = event_file_writer.EventsWriter
        self._scalar, self._kinds = summary.scalar, event_pb2
        self._folder, self._warn, self._number = folder, warn, 0
        self._writer: Any = None
        self._flushed = 0.0
        self._ended = False
        make_folder(folder, "--tensorboard")

    def take(self, notice: Notice) -> None:
        """Take one report."""
        if self._ended:
            return
        try:
            if "resumed" in notice:
                self._begin(notice["resumed"] + 1)
            elif "row" in notice:
                self._write_row(notice["row"])
        except OSError as error:
            self._ended = True
            self._warn(f"--tensorboard {self._folder} ends here: {error.strerror}")

    def close(self) -> None:
        """Write what is still buffered."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _write_row(self, row: dict[str, Any]) -> None:
        if "loss" not in row:  # the first, of step 0
            self._begin(0)
        for name, tag in TAGS.items():
            if row.get(name) is not None:
                self._event(row["step"], summary=self._scalar(tag, row[name]))
        if time.monotonic() >= self._flushed + FLUSH_S:
            self._flushed = time.monotonic()
            self._writer.flush()

    def _begin(self, step: int) -> None:
        self.close()
        self._number += 1
        self._writer = self._make(str(self._folder / "events"), f".{os.getpid()}.{self._number}")
        start = self._kinds.SessionLog(status=self._kinds.SessionLog.START)
        self._event(step, session_log=start)

    def _event(self, step: int, **what: Any) -> None:
        self._writer.write_event(self._kinds.Event(wall_time=time.time(), step=step, **what))
