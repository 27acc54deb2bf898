"""What the ranks of a job do, asked of its launcher, and who waits for whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.commands.ps import ask, entries, state_in_words
from ringlet.launcher.supervisor.listing import pid_of

AT_LEAST = 4
"""Characters of a job's name by which it is found."""


class Rank(NamedTuple):
    """A rank: whether it starts, computes, communicates, or waits for another one; and its last
    operation. One that does not answer has its process's state. `spent` and `memory` are what it
    has measured itself."""

    rank: int
    pid: int
    state: str
    awaits: int | None
    doing: str
    spent: str = ""
    memory: str = ""


@dataclass(frozen=True)
class Job:
    """A start of a job, as its launcher answers; `silent` if it does not."""

    pid: int
    name: str = ""
    command: str = ""
    folder: str = ""
    size: int = 0
    generation: int = 0
    ranks: tuple[Rank, ...] = ()
    silent: str = ""


def find(text: str) -> Job | None:
    """The job of this name, or of a name that begins so, or the launcher with this id."""
    found = entries()[::-1]
    if own := [path for path in found if str(pid_of(path)) == text]:
        return _job(own[0])
    jobs = map(_job, found if len(text) >= AT_LEAST else ())
    return next((job for job in jobs if job is not None and job.name.startswith(text)), None)


class Asking:
    """Asks one launcher again and again; a start of its job after the first has a new socket."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def ask(self, pid: int | None) -> Job | None:
        """What its ranks do now; None if it does not run, or is between two starts."""
        if pid is None:
            return None
        if self._path is None or pid_of(self._path) != pid or not self._path.exists():
            found = [path for path in entries() if pid_of(path) == pid]
            self._path = found[-1] if found else None
        return None if self._path is None else _job(self._path)


def _job(path: Path) -> Job | None:
    found = ask(path)
    if found is None:
        return None
    pid = int(found["pid"])
    if "silent" in found:
        return Job(pid, silent=state_in_words(pid))
    # A launcher of an earlier version says less.
    ranks = tuple(_rank(*(*row, "not known", None)[:5]) for row in found["ranks"])
    return Job(
        pid, found["job"], found["command"], found.get("folder", ""), found["size"],
        found["generation"], ranks,
    )  # fmt: skip


def _rank(rank: int, pid: int, doing: str | None, state: str, awaits: int | None) -> Rank:
    if doing is None:
        return Rank(rank, pid, "does not answer", None, state_in_words(pid))
    return Rank(rank, pid, state if awaits is None else "waits", awaits, doing)


def waiting(ranks: Sequence[Rank]) -> list[str]:
    """Who waits for whom in the end, in a sentence for each: ranks 0 and 2 wait for rank 1, which
    computes."""
    awaited = {each.rank: each.awaits for each in ranks if each.awaits is not None}
    states = {each.rank: each for each in ranks}
    behind: dict[int, list[int]] = {}
    circles: set[tuple[int, ...]] = set()
    for rank in awaited:
        chain = [rank]
        while (after := awaited.get(chain[-1])) is not None and after not in chain:
            chain.append(after)
        if after is None:
            behind.setdefault(chain[-1], []).append(rank)
        else:
            circles.add(tuple(sorted(chain[chain.index(after) :])))
    lines = [f"{_ranks(circle)} wait for each other" for circle in sorted(circles)]
    for last, those in sorted(behind.items()):
        found = states.get(last)
        what = "is on another host, or has ended" if found is None else found.state
        if found is not None and found.state == "does not answer":
            what += f" ({found.doing})"
        verb = "waits" if len(those) == 1 else "wait"
        lines.append(f"{_ranks(those)} {verb} for rank {last}, which {what}")
    return lines


SHOWN = 8


def _ranks(numbers: Sequence[int]) -> str:
    """ranks 0, 2 and 5"""
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > SHOWN:
        first = ", ".join(map(str, numbers[:SHOWN]))
        return f"ranks {first} and {counted(len(numbers) - SHOWN, 'other')}"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
