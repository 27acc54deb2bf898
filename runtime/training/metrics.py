"""The file of a run's metrics: a row of JSON for each step."""

import contextlib
import errno
import json
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
MOST_WAITING = 100_000


class MetricsFile:
    """Rows are appended to the file in a run's folder. Those that cannot be written (the disk is
    full) wait for the next one, and end no training: `warn(text)` is told once."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._path, self._warn = folder / METRICS, warn
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._told = False

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, and those that wait."""
        self._waiting.append(json.dumps(row) + "\n")
        data = "".join(self._waiting).encode()
        with self._warned("written"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab", buffering=0, opener=_without_waiting) as file:
                end = file.tell()
                if file.write(data) < len(data):
                    file.truncate(end)  # no half rows
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._waiting.clear()

    def cut(self, step: int) -> None:
        """Drop what follows the last whole row of a step up to this one: later steps will be taken
        again, and a killed run may leave half a row."""
        if not self._path.exists():
            return
        with self._warned("cut"), open(self._path, "r+b", opener=_without_waiting) as file:
            end, place = 0, 0
            for row in file:
                place += len(row)
                end = place if _is_up_to(row, step) else end
            file.truncate(end)

    @contextlib.contextmanager
    def _warned(self, what: str) -> Any:
        try:
            yield
        except OSError as error:
            if not self._told:
                self._told = True
                self._warn(f"{self._path} cannot be {what} ({error.strerror}); training goes on")


def _without_waiting(path: str, flags: int) -> int:
    """Opens what is no file, as a pipe without a reader, in vain and at once."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _is_up_to(row: bytes, step: int) -> bool:
    try:
        number = json.loads(row)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return row.endswith(b"\n") and isinstance(number, int) and number <= step
