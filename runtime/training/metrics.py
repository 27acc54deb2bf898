"""The files of a run's metrics: rows of JSON, one for each step, and for each rank."""

import contextlib
import errno
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ringlet.runtime.training.callbacks import Callback, Facts

METRICS, RANKS = "metrics.jsonl", "ranks.jsonl"
"""A row for each step; and about every second one for each rank."""

MOST_WAITING = 100_000


class MetricsFile:
    """Rows are appended to the file in a run's folder. Those that cannot be written (the disk is
    full) wait for the next one, and end no training: `warn(text)` is told once."""

    def __init__(self, folder: Path, warn: Callable[[str], None], name: str = METRICS) -> None:
        self._path, self._warn = folder / name, warn
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._told = False

    def write(self, *rows: Facts) -> None:
        """Append rows, and those that wait."""
        self._waiting.extend(json.dumps(row) + "\n" for row in rows)
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


class Metrics(Callback):
    """Writes METRICS and RANKS in a run's folder. A run that is resumed after a step keeps the rows
    up to there."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._steps = MetricsFile(folder, warn)
        self._ranks = MetricsFile(folder, warn, RANKS)

    def start(self, facts: Facts) -> None:
        if facts["step"]:
            self._steps.cut(facts["step"])
            self._ranks.cut(facts["step"])

    def step(self, facts: Facts) -> None:
        self._steps.write(facts)

    def ranks(self, facts: Facts) -> None:
        self._ranks.write(*facts["rows"])

    def evaluation(self, facts: Facts) -> None:
        if not facts["step"]:  # later ones are in the step's row
            self._steps.write(facts)


def read_rows(path: Path) -> Iterator[dict[str, Any] | None]:
    """The rows of such a file; None in place of a line that is none: half a row at its end, say.
    Raises OSError."""
    with open(path, "rb", opener=_without_waiting) as file:
        yield from map(_parsed, file)


def _without_waiting(path: str, flags: int) -> int:
    """Opens what is no file, as a pipe without a reader, in vain and at once."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _is_up_to(row: bytes, step: int) -> bool:
    found = _parsed(row)
    return row.endswith(b"\n") and found is not None and found["step"] <= step


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None if it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 2**53
    return row if whole else None
