"""A training run's metrics as TensorBoard event files, written by tensorboardX."""

import os
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


class EventFiles:
    """Takes rank 0's reports. A run that is resumed begins another file, which says from which step
    on earlier ones are obsolete. Raises UserError if the folder cannot be made."""

    def __init__(self, folder: Path) -> None:
        with user_errors(ImportError):  # now: it may take longer than other hosts wait for this one
            from tensorboardX import SummaryWriter

        self._make: Any = SummaryWriter
        self._folder, self._number = folder, 0
        self._writer: Any = None
        make_folder(folder, "--tensorboard")

    def take(self, notice: Notice) -> None:
        """Take one report."""
        if "resumed" in notice:
            self._begin(notice["resumed"] + 1)
        elif "row" in notice:
            row = notice["row"]
            if "loss" not in row:  # the first, of step 0
                self._begin(0)
            for name, tag in TAGS.items():
                if row.get(name) is not None:
                    self._writer.add_scalar(tag, row[name], row["step"])

    def close(self) -> None:
        """Write what is still buffered."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, step: int) -> None:
        self.close()
        self._number += 1
        self._writer = self._make(
            str(self._folder),
            purge_step=step,
            flush_secs=5,
            filename_suffix=f".{os.getpid()}.{self._number}",
        )
