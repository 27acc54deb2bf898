"""What the ranks have recorded (comm/timeline.py), on one clock.

Ranks of a machine have one clock. It is compared with rank 0's at the start and at the end of a
run; in between it is taken to drift evenly. A run that has failed has no second comparison: then
the drift is not known.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from ringlet.comm.calls.transfer import MAX_TAG
from ringlet.comm.timeline import (
    ARRIVED,
    CALL,
    ENTRIES,
    ENTRY,
    FORMAT,
    SENT,
    SPAN,
    TRANSFER,
    WAIT,
)

KNOWN = (SPAN, CALL, TRANSFER, WAIT, SENT, ARRIVED)
OF_CLOCKS = MAX_TAG
"""The tag of transfers that compare clocks, and of nothing else."""


class TraceError(ValueError):
    """There is no trace, or one that cannot be read; the message says which and why."""


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what damaged data raise where they are used into a TraceError."""
    try:
        yield
    except TraceError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TraceError(f"{what} is damaged: {error!r}") from error


class Entry(NamedTuple):
    """One entry of a ring; times are in ns of rank 0's clock."""

    start: int
    end: int
    kind: int
    thread: int
    name: int
    peer: int
    a: int
    b: int
    c: int


class Clock(NamedTuple):
    """A comparison of a rank's clock with rank 0's, all in seconds."""

    when: float
    behind: float
    error: float


@dataclass
class Record:
    """One rank's. `whole_from` is when the oldest of its entries that are still there ended: what
    began later is complete."""

    rank: int
    size: int
    generation: int
    host: str
    machine: str
    pid: int
    names: dict[int, dict[str, Any]] = field(default_factory=dict)
    threads: dict[int, str] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    clocks: list[Clock] = field(default_factory=list)
    clocks_of_machine: list[Clock] = field(default_factory=list)
    """At the start, and at the end: the best of those of all its ranks."""

    entries: list[Entry] = field(default_factory=list)
    whole_from: int = 0

    @property
    def clock(self) -> str:
        """What tells the machine, and so its clock, from others."""
        return self.machine.partition("/")[0]

    def named(self, entry: Entry) -> Mapping[str, Any]:
        """What the entry's name stands for; nothing if that has been lost."""
        return self.names.get(entry.name, {})


def read_records(folder: Path) -> list[Record]:
    """The ranks' records in a folder, by rank; of several starts of a job, the last one's.

    Raises TraceError if there are none, or if they are of another version.
    """
    found: dict[int, Record] = {}
    rings: dict[int, Path] = {}
    for path in sorted(folder.glob("*.facts")):
        if match := re.fullmatch(r"(?:rank|received)-(\d+)", path.stem):
            record = _read_facts(path)
            ring = path.with_suffix(".ring")
            if record is not None and record.rank == int(match[1]) and ring.exists():
                found[record.rank], rings[record.rank] = record, ring
    last = max((record.generation for record in found.values()), default=0)
    records = [found[rank] for rank in sorted(found) if found[rank].generation == last]
    if not records:
        raise TraceError(f"{folder} holds nothing that a rank has recorded")
    for record in records:
        same = [each.clocks for each in records if each.clock == record.clock]
        record.clocks_of_machine = _best(same)
        _read_ring(rings[record.rank], record)
    return records


def _read_facts(path: Path) -> Record | None:
    """The record without its entries; None if not even its first line is whole."""
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the disk was full, or the rank was killed
        if isinstance(line, dict):
            lines.append(line)
    if not lines or "format" not in lines[0]:
        return None
    head = lines[0]
    if head.pop("format") != FORMAT:
        raise TraceError(f"{path} is of another version of ringlet")
    record = Record(**head)
    for line in lines[1:]:
        if "name" in line:
            record.names[line.pop("name")] = line
        elif "thread" in line:
            record.threads[line["thread"]] = line["text"]
        elif "clock" in line:
            record.clocks.append(Clock(*line["clock"]))
        else:
            record.facts.append(line)
    return record


def _read_ring(path: Path, record: Record) -> None:
    data, to_ns, used = path.read_bytes().rstrip(b"\0"), _alignment(record.clocks_of_machine), 0
    data += bytes(-len(data) % ENTRY.size)  # zeros belong to the last entry
    for start, end, kind, *rest in ENTRY.iter_unpack(data):
        used += start > 0
        if not 0 < start <= end or kind not in KNOWN or _compares_clocks(kind, rest):
            continue
        entry = Entry(to_ns(start), to_ns(end), kind, *rest)
        record.entries.append(entry._replace(b=to_ns(entry.b / 1e9)) if kind == CALL else entry)
    record.entries.sort()
    if used == ENTRIES:  # the oldest have been overwritten
        record.whole_from = min(entry.end for entry in record.entries)


def _compares_clocks(kind: int, numbers: list[int]) -> bool:
    stream = numbers[4]  # b
    if kind in (SENT, ARRIVED):
        return stream >> 24 == OF_CLOCKS + 1
    return kind in (TRANSFER, WAIT) and stream == OF_CLOCKS


def _best(clocks: Sequence[Sequence[Clock]]) -> list[Clock]:
    """Of the comparisons of all ranks of a machine, at each time the one with the least error."""
    times = zip_longest(*clocks)
    return [min(filter(None, row), key=lambda clock: clock.error) for row in times]


def _alignment(clocks: list[Clock]) -> Callable[[float], int]:
    """From seconds of a rank's clock to ns of rank 0's."""
    if not clocks:
        return lambda seconds: round(seconds * 1e9)
    first, last = clocks[0], clocks[-1]
    span = last.when - first.when
    drift = (last.behind - first.behind) / span if span > 0 else 0.0
    return lambda s: round((s + first.behind + drift * (s - first.when)) * 1e9)


def clock_error(record: Record, records: list[Record]) -> float | None:
    """By how many seconds the rank's times may be wrong beside rank 0's; None: not known."""
    if record.clock == records[0].clock:
        return 0.0
    return max((clock.error for clock in record.clocks_of_machine), default=None)
