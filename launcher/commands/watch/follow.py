"""A run's folder, read while the run writes there, or afterwards."""

import contextlib
import json
import math
import os
import re
import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ringlet.launcher.commands.train.folder import LOCK
from ringlet.launcher.commands.watch.curve import Curve, Point
from ringlet.launcher.supervisor.process import state_of
from ringlet.nn.files import open_file
from ringlet.runtime.training.metrics import METRICS, RANKS
from ringlet.runtime.training.record import END, RUN, read_record

CHUNK = 1 << 20
"""Bytes that are read at a time; a row is shorter."""

RECENT = 50
"""Steps by whose pace the rest is foreseen: with validations and checkpoints among them."""


@dataclass(frozen=True)
class Reading:
    """What a run's folder says: the newest value of each metric, curves by step, each rank's newest
    figures, the number of `steps` that the run is to take and seconds until then, where they are
    known, and how it ended. `pid` is the launcher on this host to which the folder belongs, `host`
    another host's name. `behind` says that more of the file is there to be read."""

    row: Mapping[str, float] = field(default_factory=dict)
    loss: tuple[Point, ...] = ()
    validation: tuple[Point, ...] = ()
    speed: tuple[Point, ...] = ()
    ranks: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    steps: int | None = None
    left_s: float | None = None
    quiet_s: float = 0.0
    end: Mapping[str, Any] = field(default_factory=dict)
    pid: int | None = None
    host: str = ""
    problem: str = ""
    behind: bool = True

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return int(self.row.get("step", 0))


LOSSES = ("loss", "val_loss")


class Tail:
    """The rows of a growing file: of each, its finite numbers by name, and losses that are none, as
    NaN."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place, self._file, self._half = 0, (0, 0), b""
        self.changed, self.behind = 0.0, True

    def read(self) -> tuple[bool, list[dict[str, float]]]:
        """The next rows, CHUNK bytes at most; and whether they are not the next but the first ones,
        since the file is another one, or was cut. Raises OSError; without a file there are none."""
        try:
            with open_file(self._path) as file:
                status = os.fstat(file.fileno())
                this = status.st_dev, status.st_ino
                anew = this != self._file or status.st_size < self._place
                if anew:
                    self._place, self._file, self._half = 0, this, b""
                file.seek(self._place)
                data = file.read(CHUNK)
        except FileNotFoundError:
            self._place, self._file, self.behind = 0, (0, 0), False
            return True, []
        self._place += len(data)
        self.behind, self.changed = self._place < status.st_size, status.st_mtime
        *lines, half = (self._half + data).split(b"\n")
        self._half = half if len(half) < CHUNK else b""
        return anew, [row for line in lines if "step" in (row := _numbers(line))]


def _numbers(line: bytes) -> dict[str, float]:
    """The numbers of a row that Tail gives; none of what is no row, such as the half of one."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    numbers = {
        name: value if abs(value) < 1e300 else math.nan  # which NaN is not, either
        for name, value in (row.items() if isinstance(row, dict) else ())
        if type(value) in (int, float)
    }
    return {n: each for n, each in numbers.items() if n in LOSSES or not math.isnan(each)}


class Follower:
    """Reads what has been added to a run's folder since the last look. With a `pid`, that launcher
    is the one to which it belongs; without a `folder`, that is all that is read."""

    def __init__(self, folder: Path | None, pid: int | None = None) -> None:
        self._folder, self._pid = folder, pid
        self._metrics, self._per_rank = (Tail((folder or Path()) / n) for n in (METRICS, RANKS))
        self._ranks: dict[int, dict[str, float]] = {}
        self._start_over()

    def _start_over(self) -> None:
        self._row: dict[str, float] = {}
        self._loss, self._validation, self._speed = Curve(), Curve(), Curve()
        self._pace: deque[tuple[int, float]] = deque(maxlen=RECENT)

    def look(self) -> Reading:
        """Read on."""
        # Before the files: what has ended by now has written all.
        pid, host = self._pid, ""
        if pid is not None and state_of(pid) in ("", "Z"):
            pid = None
        if self._folder is None:
            return Reading(pid=pid, behind=False)
        if self._pid is None:
            pid, host = holder(self._folder)
        problem = self._read()
        steps = _number(read_record(self._folder / RUN), "config", "steps")
        end = None if pid else read_record(self._folder / END)
        return Reading(
            dict(self._row),
            tuple(self._loss.points()),
            tuple(self._validation.points()),
            tuple(self._speed.points()),
            ranks=dict(self._ranks),
            steps=steps,
            left_s=self._left(steps),
            quiet_s=max(0.0, time.time() - self._metrics.changed) if self._metrics.changed else 0.0,
            end=end or {},
            pid=pid,
            host=host,
            problem=problem,
            behind=self._metrics.behind or self._per_rank.behind,
        )

    def _read(self) -> str:
        """Take the next rows of both files; returns what is in the way."""
        try:
            anew, rows = self._metrics.read()
            if anew:
                self._start_over()
            for row in rows:
                self._take(row)
            anew, rows = self._per_rank.read()
            self._ranks = {} if anew else self._ranks
            self._ranks |= {int(row["rank"]): row for row in rows if "rank" in row}
        except OSError as error:
            self._metrics.behind = self._per_rank.behind = False
            return f"{error.filename}: {error.strerror}"
        return ""

    def _take(self, row: dict[str, float]) -> None:
        step = int(row["step"])
        self._row |= row
        for name, curve in (
            ("loss", self._loss),
            ("val_loss", self._validation),
            ("tokens_per_s", self._speed),
        ):
            if not math.isnan(row.get(name, math.nan)):
                curve.add(step, row[name])
        if "val_loss" in row:
            self._row["val_step"] = step
        if "elapsed_s" in row:
            if self._pace and self._pace[-1][0] >= step:
                self._pace.clear()
            self._pace.append((step, row["elapsed_s"]))

    def _left(self, steps: int | None) -> float | None:
        if steps is None or len(self._pace) < 2:
            return None
        (first, then), (last, now) = self._pace[0], self._pace[-1]
        return max(0.0, (now - then) / (last - first) * (steps - last))


def _number(facts: Any, *names: str) -> int | None:
    """A number deep in such facts; None if there is none."""
    for name in names:
        facts = facts.get(name) if isinstance(facts, dict) else None
    return facts if type(facts) is int else None


def holder(folder: Path) -> tuple[int | None, str]:
    """The launcher on this host to which the folder belongs now, or the name of another host on
    which one had it last."""
    lock = folder / LOCK
    with contextlib.suppress(OSError), open_file(lock) as file:
        text = file.read(300).decode(errors="replace").strip()
        if match := re.fullmatch(r"pid (\d{1,10}) on (.*)", text):
            if match[2] != socket.gethostname():
                return None, match[2]
            pid = int(match[1])
            return (pid if _has_open(pid, os.path.realpath(lock)) else None), ""
    return None, ""


def _has_open(pid: int, path: str) -> bool:
    """Whether the process has the file open. To take the lock, to see whether it is free, might be
    in the way of a run that is just beginning."""
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) == path:
                    return True
    except PermissionError:  # another user's
        return True
    except OSError:
        pass
    return False
