"""What a run's folder says of the whole run: how it was started, and how it ended."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringlet.nn.files import replacing
from ringlet.runtime.training.callbacks import Callback, Facts

RUN, END = "run.json", "end.json"
"""There from the first second on; there when the run has ended."""


class Record(Callback):
    """Writes END in a run's folder: `how` is done, stopped or failed, `ended` the time."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder, self._warn = folder, warn

    def end(self, facts: Facts) -> None:
        self._write({"how": "stopped" if facts["stopped"] else "done", **facts})

    def failure(self, facts: Facts) -> None:
        self._write({"how": "failed", **facts})

    def _write(self, facts: dict[str, Any]) -> None:
        write_record(self._folder / END, {"ended": time.time(), **facts}, self._warn)


def begin_record(folder: Path, facts: Facts, warn: Callable[[str], None]) -> None:
    """Write RUN with these facts: a run begins, or goes on."""
    with contextlib.suppress(OSError):
        (folder / END).unlink(missing_ok=True)
    write_record(folder / RUN, {"began": time.time(), **facts}, warn)


def write_record(path: Path, facts: Facts, warn: Callable[[str], None]) -> None:
    """Write a file of facts, whole or not at all; what cannot be written ends no training."""
    try:
        with replacing(path) as part:
            part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        warn(f"{path} cannot be written ({error.strerror}); training goes on")


def read_record(path: Path) -> dict[str, Any] | None:
    """The facts in such a file; None if there is no such file, or no facts in it."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as f:
            facts = json.load(f)
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None
