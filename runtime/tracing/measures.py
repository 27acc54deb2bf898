"""The numbers of a trace: where the time of its steps went, on each rank and between them."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ringlet.runtime.tracing.bubbles import Bubble, bubbles
from ringlet.runtime.tracing.critical import Segment, critical_path
from ringlet.runtime.tracing.pieces import IDLE, WAITING, Piece, common, pieces, union
from ringlet.runtime.tracing.records import refused
from ringlet.runtime.tracing.trace import Slice, Trace

Cut: TypeAlias = Mapping[tuple[int, int], Sequence[Piece]]
"""The pieces by rank and step."""


class Overlap(NamedTuple):
    """Seconds of a step in which something travels to or from a rank, and those of them in which
    the rank computes meanwhile."""

    seconds: float
    hidden: float

    @property
    def part(self) -> float:
        """From 0 (the rank waits for all of it) to 1 (for nothing)."""
        return self.hidden / self.seconds if self.seconds else 0.0


class Idle(NamedTuple):
    """Seconds of a step in which a rank only waits or communicates, by cause: a call, and the rank
    that came late to it (-1: all were there, and bytes were on their way)."""

    rank: int
    call: str
    late: int
    seconds: float


class Straggler(NamedTuple):
    """How long a rank computes in a step, that beside the median of all ranks, and how long the
    others waited for it, all together."""

    rank: int
    computing: float
    factor: float
    awaited: float


@dataclass(frozen=True)
class Measures:
    """Of the steps that all ranks have taken; seconds and bytes are means of a step."""

    steps: tuple[int, ...]
    """Their numbers."""

    seconds: float
    """From the first rank's beginning to the last one's end."""

    parts: dict[int, dict[str, float]]
    """By rank: what its own step was spent on; see pieces.py for the names."""

    bubbles: tuple[Bubble, ...]
    overlap: dict[int, Overlap]

    idle: tuple[Idle, ...]
    """The longest first."""

    stragglers: tuple[Straggler, ...]
    """All ranks; the one first for which the others wait longest."""

    critical: tuple[Segment, ...]
    """The critical path, by what and rank, the longest first."""

    links: dict[tuple[int, int], float]
    """(from, to): payload bytes."""


def measure(trace: Trace) -> Measures:
    """Measure a trace; without a step that all ranks have taken, there is nothing in it. Raises
    TraceError if what it says cannot have been."""
    with refused("the trace"):
        return _measure(trace)


def _measure(trace: Trace) -> Measures:
    steps, ranks = tuple(trace.steps), trace.ranks
    cut = {(rank, step): pieces(trace, rank, step) for step in steps for rank in ranks}
    parts = {rank: _parts([cut[rank, step] for step in steps]) for rank in ranks}
    spans = [
        max(each.end for each in row.values()) - min(each.start for each in row.values())
        for row in trace.steps.values()
    ]
    return Measures(
        steps=steps,
        seconds=sum(spans) / max(1, len(spans)),
        parts=parts,
        bubbles=bubbles(trace),
        overlap={rank: _overlap(trace, rank, cut) for rank in ranks},
        idle=_idle(cut, len(steps)),
        stragglers=_stragglers(parts, cut, len(steps)),
        critical=_critical(cut, ranks, steps),
        links=_links(trace),
    )


def _parts(rows: Sequence[Sequence[Piece]]) -> dict[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        for piece in row:
            total[piece.what] += piece.seconds / len(rows)
    return dict(total)


def _overlap(trace: Trace, rank: int, cut: Cut) -> Overlap:
    """What travels does so from when all ranks are at work on it until it is there."""
    travels = union(
        (moving, each.time("arrived") or each.end)
        for each in _calls(trace, rank)
        if (moving := each.time("moving")) is not None
    )
    seconds = hidden = 0.0
    for step in trace.steps:
        row = cut[rank, step]
        seconds += common(travels, [(row[0].start, row[-1].end)])
        hidden += common(travels, [(p.start, p.end) for p in row if p.what not in IDLE])
    count = max(1, len(trace.steps))
    return Overlap(seconds / count, hidden / count)


def _calls(trace: Trace, rank: int) -> Iterable[Slice]:
    for (owner, _), row in trace.slices.items():
        if owner == rank:
            yield from (each for each in row if each.kind == "call")


def _idle(cut: Cut, steps: int) -> tuple[Idle, ...]:
    total: defaultdict[tuple[int, str, int], float] = defaultdict(float)
    for (rank, _), row in cut.items():
        for piece in row:
            if piece.what in IDLE:
                total[rank, piece.call, piece.late] += piece.seconds / steps
    found = [Idle(*cause, seconds) for cause, seconds in total.items()]
    return tuple(sorted(found, key=lambda each: -each.seconds))


def _stragglers(
    parts: Mapping[int, Mapping[str, float]], cut: Cut, steps: int
) -> tuple[Straggler, ...]:
    awaited: defaultdict[int, float] = defaultdict(float)
    for row in cut.values():
        for piece in row:
            if piece.what == WAITING:
                awaited[piece.late] += piece.seconds / steps
    computing = {
        rank: sum(seconds for what, seconds in row.items() if what not in IDLE)
        for rank, row in parts.items()
    }
    middle = sorted(computing.values())[(len(computing) - 1) // 2]
    found = [
        Straggler(rank, own, own / middle if middle else 1.0, awaited[rank])
        for rank, own in computing.items()
    ]
    return tuple(sorted(found, key=lambda each: -each.awaited))


def _critical(cut: Cut, ranks: Sequence[int], steps: Sequence[int]) -> tuple[Segment, ...]:
    total: defaultdict[tuple[str, int], float] = defaultdict(float)
    for step in steps:
        for what, rank, seconds in critical_path({rank: cut[rank, step] for rank in ranks}):
            total[what, rank] += seconds / len(steps)
    found = [Segment(*place, seconds) for place, seconds in total.items()]
    return tuple(sorted(found, key=lambda each: -each.seconds))


def _links(trace: Trace) -> dict[tuple[int, int], float]:
    total: defaultdict[tuple[int, int], float] = defaultdict(float)
    for rank in trace.ranks:
        own = [row[rank] for row in trace.steps.values()]
        starts = [each.start for each in own]
        for call in _calls(trace, rank):
            place = bisect_right(starts, call.start) - 1
            if place < 0 or call.start >= own[place].end:
                continue  # between two steps
            if call.facts["operation"] == "send":
                total[rank, int(call.facts["peer"])] += float(call.facts["bytes"])
            for peer, nbytes in call.facts.get("sent", {}).items():
                total[rank, int(peer)] += float(nbytes)
    return {link: total[link] / len(trace.steps) for link in sorted(total) if total[link]}
