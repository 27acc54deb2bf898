"""A trace, read back from its file."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ringlet.nn.files import open_file
from ringlet.runtime.tracing.chrome import FORMAT, STEP
from ringlet.runtime.tracing.records import TraceError, refused

LARGEST = 2**53
"""Numbers of a trace are below this."""

PROGRAM = 0
"""The thread in which a rank's program runs, and its step."""


class Slice(NamedTuple):
    """Something that takes time on a thread of a rank; in seconds from the trace's beginning."""

    start: float
    end: float
    name: str
    kind: str
    """step, compute, transfer (a pipeline's send or receive), call (a collective, a send or a
    receive), wait, or message."""

    facts: Mapping[str, Any]
    """More of it, as chrome.py writes it; times are in microseconds there, as in the file."""

    def time(self, fact: str) -> float | None:
        """A fact that is a time, in seconds; None if it is not known."""
        value = self.facts.get(fact)
        return None if value is None else float(value) / 1e6


class Action(NamedTuple):
    """When a rank took an action of its pipeline: forward, backward, ... of one micro-batch."""

    start: float
    end: float
    rank: int
    kind: str
    """F, B, I or W: see ringlet.runtime.pipeline.actions."""

    stage: int
    micro_batch: int


class Pipeline(NamedTuple):
    """Ranks that are one pipeline (one rank: there is none), and the name of its schedule."""

    ranks: tuple[int, ...]
    schedule: str
    chunks: int


@dataclass(frozen=True)
class Trace:
    """What a run has recorded. `slices` are by rank and thread, in the order of their beginning."""

    slices: Mapping[tuple[int, int], Sequence[Slice]]
    about: Mapping[str, Any]

    @property
    def size(self) -> int:
        """How many ranks the run had; `ranks` are those that have left something."""
        return int(self.about["size"])

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that are in the trace."""
        return tuple(self.about["ranks"])

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host of each of `ranks`."""
        return tuple(self.about["hosts"])

    @property
    def clock_error(self) -> float | None:
        """By how many seconds times of different ranks may be wrong beside each other at most;
        None: there are ranks whose clock was never compared."""
        errors = [*self.about["clock_errors_s"]]
        return None if None in errors else float(max(errors, default=0.0))

    @property
    def drift_known(self) -> bool:
        """Whether every clock was compared a second time, at the end."""
        return all(self.about["drift_known"])

    @property
    def pipelines(self) -> tuple[Pipeline, ...]:
        """The pipelines, all of whose ranks are in the trace."""
        found = self.about["pipelines"]
        pipelines = [Pipeline(tuple(p["ranks"]), p["schedule"], p["chunks"]) for p in found]
        return tuple(each for each in pipelines if set(each.ranks) <= set(self.ranks))

    @cached_property
    def steps(self) -> dict[int, dict[int, Slice]]:
        """By number, and by rank: the steps that all ranks have taken."""
        found: dict[int, dict[int, Slice]] = {}
        for rank in self.ranks:
            for each in self.slices.get((rank, PROGRAM), ()):
                if each.kind == STEP and each.end > each.start:
                    found.setdefault(int(each.facts["number"]), {})[rank] = each
        whole = {number for number, row in found.items() if len(row) == len(self.ranks)}
        return {number: found[number] for number in sorted(whole)}

    def within(self, rank: int, step: int, thread: int = PROGRAM) -> list[Slice]:
        """What the rank did on a thread in a step, which comes first."""
        start, end = self.steps[step][rank][:2]
        row = self.slices.get((rank, thread), ())
        first = bisect_left(row, start, key=lambda each: each.start)
        stop = bisect_right(row, end, key=lambda each: each.start)
        return [each for each in row[first:stop] if each.end <= end]

    def actions(self, rank: int, step: int) -> list[Action]:
        """What the rank computed in a step, as actions of its pipeline; also without one."""
        return [
            Action(each.start, each.end, rank, f["action"], int(f["stage"]), int(f["micro_batch"]))
            for each in self.within(rank, step)
            if each.kind == "compute" and "action" in (f := each.facts)
        ]


def read_trace(path: Path) -> Trace:
    """Read a trace. Raises TraceError for a file that is none, or half of one, or of another
    version, and OSError, also for what is no regular file."""
    with open_file(path) as file:
        data = file.read()
    try:
        content = json.loads(
            data,
            parse_float=lambda text: _within(float(text)),
            parse_int=lambda text: _within(int(text)),
            parse_constant=lambda text: _within(float(text)),
        )
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path} is no trace, or only a part of one: {error}") from error
    about = content.get("otherData") if isinstance(content, dict) else None
    if not isinstance(about, dict) or "ringlet_trace" not in about:
        raise TraceError(f"{path} is no trace of ringlet's")
    if about["ringlet_trace"] != FORMAT:
        raise TraceError(
            f"{path} is a trace of version {about['ringlet_trace']}; this ringlet reads {FORMAT}: "
            "read it with the one that wrote it"
        )
    slices: dict[tuple[int, int], list[Slice]] = {}
    with refused(str(path)):
        for event in content["traceEvents"]:
            if event["ph"] == "X":
                start, args = float(event["ts"]), dict(event["args"])
                end = start + float(event["dur"])
                if end < start:
                    raise ValueError(f"{event['name']!r} ends before it begins")
                row = slices.setdefault((int(event["pid"]), int(event["tid"])), [])
                times = round(start * 1000) / 1e9, round(end * 1000) / 1e9
                row.append(Slice(*times, str(event["name"]), str(event["cat"]), args))
        for row in slices.values():
            row.sort(key=lambda each: (each.start, -each.end))
        trace = Trace(slices, about)
        _check(trace)
    return trace


def _within(number: float) -> float:
    """The number, unless no trace has it: as NaN, or what a double cannot count to."""
    if not abs(number) < LARGEST:
        raise ValueError("a number is beyond what a trace has")
    return number


def _check(trace: Trace) -> None:
    """Raises ValueError, and others, if what the trace says of itself cannot be."""
    ranks = trace.ranks
    if not ranks or {*map(type, ranks)} != {int} or ranks != tuple(sorted({*ranks})):
        raise ValueError(f"ranks {ranks}")
    if ranks[0] < 0 or ranks[-1] >= trace.size or len(trace.hosts) != len(ranks):
        raise ValueError(f"ranks {ranks} of {trace.size} on {len(trace.hosts)} hosts")
    words = [*trace.hosts, *(each.schedule for each in trace.pipelines)]
    if {*map(type, words)} != {str}:
        raise ValueError(f"names {words}")
    if any(type(each.chunks) is not int for each in trace.pipelines):
        raise ValueError("a pipeline's chunks")
    _ = trace.clock_error, trace.drift_known, trace.steps
