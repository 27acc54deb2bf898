"""A training run's metrics as TensorBoard's event files, written by tensorboardX."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from ringlet.launcher.errors import UserError

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
"""What of a row of metrics is drawn, and under which name."""

FLUSH_S = 5


def check_tensorboard(folder: Path | None) -> None:
    """Raise UserError if event files are asked for and nothing is there that writes them."""
    if folder is not None and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs tensorboardX: pip install 'ringlet[tensorboard]'")


class EventFiles:
    """Takes what rank 0 reports. A run that goes on begins another file, which says from which
    step on the earlier ones do not count. Raises UserError where there can be no folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self._writer: Any = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--tensorboard {folder}: {error.strerror}") from error

    def take(self, message: dict[str, Any]) -> None:
        """Take one message of rank 0."""
        if "resumed" in message:
            self._begin(message["resumed"] + 1)
        elif "row" in message:
            row = message["row"]
            if "loss" not in row:  # the first, of step 0
                self._begin(0)
            for name, tag in TAGS.items():
                if row.get(name) is not None:
                    self._writer.add_scalar(tag, row[name], row["step"])

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, step: int) -> None:
        from tensorboardX import SummaryWriter

        self.close()
        self._number += 1
        self._writer = SummaryWriter(
            str(self._folder),
            purge_step=step,
            flush_secs=FLUSH_S,
            filename_suffix=f".{os.getpid()}.{self._number}",
        )
