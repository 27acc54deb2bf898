"""What is watched: a run's folder, a job, or both, put together for whoever shows it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ringlet.launcher.commands.plan.tables import gigabytes
from ringlet.launcher.commands.train.folder import LOCK
from ringlet.launcher.commands.watch.follow import Follower, Reading, holder
from ringlet.launcher.commands.watch.ranks import Asking, Job, Rank, find, waiting
from ringlet.launcher.errors import UserError
from ringlet.launcher.units import seconds_text
from ringlet.runtime.training.metrics import METRICS
from ringlet.runtime.training.record import RUN
from ringlet.runtime.training.trainer import CHECKPOINTS

EVERY_S = 1.0
"""Between two looks. To answer takes a rank a tenth of a millisecond."""

SLOW_S = 5.0
"""A disk or a launcher that takes longer is named."""

QUIET_S = 30.0
"""So long without a new row, and it is said."""

Found = TypeVar("Found")


class Repeated(Generic[Found]):
    """Looks once a second, on a thread of its own, and keeps what it found last: neither a slow
    disk nor a launcher that is stopped holds up whoever shows it. Looks `again` at once if there is
    more to be found."""

    def __init__(
        self, look: Callable[[], Found], first: Found, again: Callable[[Found], bool]
    ) -> None:
        self.found, self.seen = first, threading.Event()
        self._look, self._again = look, again
        self._at = time.monotonic()
        self._error: Exception | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="ringlet-watch", daemon=True).start()

    def _run(self) -> None:
        while self._error is None and not self._ended.is_set():
            try:
                self.found = self._look()
            except Exception as error:  # raised where it is seen
                self._error = error
            self._at = time.monotonic()
            self.seen.set()
            if not self._again(self.found):
                self._ended.wait(EVERY_S)

    def close(self) -> None:
        """Look no more."""
        self._ended.set()

    @property
    def silent_s(self) -> float:
        """Seconds since the last look ended; raises what a look has raised."""
        if self._error is not None:
            raise self._error
        return time.monotonic() - self._at


@dataclass(frozen=True)
class View:
    """What is shown: `state` in a word and `says` in a sentence, figures as (name, text), curves by
    step, ranks, who waits for whom, and notes on what cannot be seen."""

    name: str
    command: str
    state: str
    says: str
    reading: Reading
    figures: tuple[tuple[str, str], ...]
    ranks: tuple[Rank, ...]
    waiting: tuple[str, ...]
    notes: tuple[str, ...]
    over: bool

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        read = self.reading
        return {
            "name": self.name, "command": self.command, "state": self.state, "says": self.says,
            "step": read.step, "steps": read.steps, "figures": self.figures,
            "loss": [(p.step, *map(_rounded, p[1:])) for p in read.loss],
            "validation": [(p.step, _rounded(p.mean)) for p in read.validation],
            "speed": [(p.step, _rounded(p.mean)) for p in read.speed],
            "ranks": [each._asdict() for each in self.ranks], "waiting": self.waiting,
            "notes": self.notes, "over": self.over,
        }  # fmt: skip


class Watched:
    """A run's folder, or a job by its name or by its launcher's id. Raises UserError if there is
    none."""

    def __init__(self, target: str) -> None:
        path, pid = Path(target), None
        folder: Path | None = path
        if path.is_dir():
            self.name = target
            _check(path)
        elif (job := find(target)) is not None:
            folder, pid = Path(job.folder) if job.folder else None, job.pid
            self.name = job.folder or f"job {job.name}"
        else:
            what = "is no folder of a run" if path.exists() else "there is no such folder"
            raise UserError(
                f"{target}: {what}, and no job of yours on this host has that name or process id "
                "(`ringlet ps` lists them)"
            )
        follower = Follower(folder, pid)
        self._trains = folder is not None
        self._files = Repeated(follower.look, Reading(), lambda found: found.behind)
        self._pid, self._asking = pid, Asking()
        self._job: Repeated[Job | None] = Repeated(self._ask, None, lambda found: False)

    def _ask(self) -> Job | None:
        if self._pid is None:
            self._files.seen.wait()
        return self._asking.ask(self._pid or self._files.found.pid)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()
        self._job.close()

    def wait(self, seconds: float) -> None:
        """Until there is something to show, but no longer."""
        until = time.monotonic() + seconds
        self._job.seen.wait(seconds)
        while time.monotonic() < until and self._files.found.behind:
            time.sleep(0.02)

    def look(self) -> View:
        """What there is to show now; reads nothing, and waits for nothing."""
        slow, late = self._files.silent_s, self._job.silent_s
        read = self._files.found
        over = not (read.behind or read.pid or (read.host and not read.end))
        job = None if over else self._job.found
        notes = list(_notes(read, job, over))
        if slow > SLOW_S:
            notes.append(f"the folder has not been readable for {_clock(slow)}")
        if late > SLOW_S and read.pid:
            notes.append(f"the launcher has not answered for {_clock(late)}")
        state, says = _says(read, over, self._trains)
        return View(
            printable(self.name),
            printable(job.command if job is not None else ""),
            state,
            printable(says),
            read,
            tuple(_figures(read.row)),
            tuple(_ranks(read, job, over)),
            tuple(() if job is None else waiting(job.ranks)),
            tuple(map(printable, notes)),
            over,
        )


def _check(folder: Path) -> None:
    """Raise UserError if there is nothing of a run in the folder, and will not be."""
    metrics = folder / METRICS
    if metrics.exists() and not metrics.is_file():
        raise UserError(f"{metrics} is no file")
    if metrics.exists() or holder(folder) != (None, ""):
        return
    if any((folder / name).exists() for name in (RUN, LOCK, CHECKPOINTS)):
        raise UserError(f"{folder} has no {METRICS}, and no run is writing there")
    raise UserError(f"{folder} is not the folder of a run: it has no {METRICS}")


def _notes(read: Reading, job: Job | None, over: bool) -> Iterator[str]:
    if read.problem:
        yield read.problem
    if read.host and not over:
        yield f"it runs, or has run, on {read.host}: what its ranks do is seen there"
    if job is not None and job.silent:
        yield f"its launcher (pid {job.pid}) does not answer: {job.silent}"
    if job is not None and len(job.ranks) < job.size:
        yield f"{len(job.ranks)} of its {job.size} ranks are seen on this host"
    if read.pid and read.row and read.quiet_s > QUIET_S:
        yield f"no step has ended for {_clock(read.quiet_s)}"


def _says(read: Reading, over: bool, trains: bool) -> tuple[str, str]:
    if not trains:
        return ("over", "it has ended") if over else ("running", "it runs")
    of = "" if read.steps is None else f" of {read.steps:,}"
    if not over:
        if read.behind:
            return "reading", f"reading: step {read.step:,}" if read.row else "reading"
        if not read.row:
            return "starting", "no step has ended yet"
        left = "" if read.left_s is None else f", {_clock(read.left_s)} left"
        return "running", f"step {read.step:,}{of}{left}"
    how, after = read.end.get("how"), f"after step {read.step:,}{of}"
    if not (read.row or how):
        return "ended", "it has ended, and no step of it"
    if how == "failed":
        return "failed", f"failed {after}: {read.end.get('cause')}"
    if how == "stopped":
        return "stopped", f"stopped {after}, and saved: --resume goes on"
    if how == "done" or (read.steps is not None and read.step >= read.steps):
        return "done", f"done after step {read.step:,}"
    return "ended", f"ended {after}" + (", since its launcher was killed" if read.steps else "")


def _figures(row: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The figures that there are, by name."""
    if "loss" in row:
        yield "loss", f"{row['loss']:.4f}"
    if "val_loss" in row:
        bits = row.get("val_bits_per_byte")
        more = "" if bits is None else f" ({bits:.3f} bits per byte)"
        yield "validation", f"{row['val_loss']:.4f}{more} after step {row['val_step']:,}"
    if "tokens_per_s" in row:
        yield "speed", f"{row['tokens_per_s']:,.0f} tokens/s"
    if row.get("step_s", 0.0) > 0:
        waits = row.get("comm_s", 0.0) / row["step_s"]
        yield "a step", f"{seconds_text(row['step_s'])}, {waits:.0%} of it waiting"
    if "mfu" in row:
        yield "MFU", f"{row['mfu']:.0%} of the ranks' own matrix products"
    if "learning_rate" in row:
        yield "learning rate", f"{row['learning_rate']:.3g}"
    if "grad_norm" in row:
        yield "gradient norm", f"{row['grad_norm']:.3g}"


def _ranks(read: Reading, job: Job | None, over: bool) -> Iterator[Rank]:
    """The ranks that are seen, or have left figures."""
    seen = {} if job is None else {each.rank: each for each in job.ranks}
    unseen = "" if over else "not seen"
    for number in sorted({*seen, *read.ranks}):
        row = read.ranks.get(number, {})
        step, spent, memory = row.get("step_s", 0.0), "", ""
        if step > 0:
            computes, waits = (row.get(name, 0.0) / step for name in ("compute_s", "comm_s"))
            spent = f"{computes:.0%} computing, {waits:.0%} waiting"
        if row.get("peak_bytes"):
            memory = gigabytes(row["peak_bytes"])
        found = seen.get(number, Rank(number, 0, unseen, None, ""))
        yield found._replace(doing=printable(found.doing), spent=spent, memory=memory)


def printable(text: str) -> str:
    """Without what would steer a terminal: labels and commands come from others."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02d}"


def _rounded(value: float) -> float:
    """Five figures: more cannot be seen."""
    return float(f"{value:.5g}")
