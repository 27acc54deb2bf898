"""What the time of a rank's step was spent on: its program's thread, cut into pieces.

A piece is where one slice is the innermost. The time of a call, or of waiting for one, counts as
waiting until the last rank has come to it, and as communicating from then on.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ringlet.runtime.tracing.chrome import STEP
from ringlet.runtime.tracing.trace import Slice, Trace

WAITING, COMMUNICATING, OTHER = "waiting", "communicating", "other"
IDLE = (WAITING, COMMUNICATING)


class Piece(NamedTuple):
    """A part of a step. `what` is waiting (for the rank `late`), communicating, forward, backward,
    weights, another part of the program, or other: what has no name."""

    start: float
    end: float
    what: str
    late: int = -1
    call: str = ""
    """In calls: which, as in "all_reduce gradients"."""

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.end - self.start


def pieces(trace: Trace, rank: int, step: int) -> list[Piece]:
    """The step from its beginning to its end, without gaps."""
    found: list[Piece] = []
    for start, end, innermost in _innermost(trace.within(rank, step)):
        found += _pieces(start, end, innermost, rank)
    return found


def _innermost(slices: Sequence[Slice]) -> Iterator[tuple[float, float, Slice]]:
    """When each slice is the innermost one; the first lies around all others."""
    around: list[Slice] = []
    now = 0.0
    for each in (*slices, None):
        until = each.start if each is not None else slices[0].end
        while around and (each is None or around[-1].end <= until):
            if around[-1].end > now:
                yield now, around[-1].end, around[-1]
                now = around[-1].end
            around.pop()
        if around and until > now:
            yield now, until, around[-1]
        now = max(now, until)
        if each is not None:
            around.append(each)


def _pieces(start: float, end: float, innermost: Slice, rank: int) -> Iterator[Piece]:
    kind, name = innermost.kind, innermost.name
    if kind == STEP:
        yield Piece(start, end, OTHER)
    elif kind == "compute":
        yield Piece(start, end, name.split()[0] if "action" in innermost.facts else name)
    elif kind == "transfer":  # around the call
        yield Piece(start, end, COMMUNICATING, call=name.rstrip("0123456789 "))
    else:
        ready, late = innermost.time("ready"), int(innermost.facts.get("late", -1))
        came = start if ready is None or late == rank else min(max(ready, start), end)
        call = call_name(name)
        if came > start:
            yield Piece(start, came, WAITING, late, call)
        if end > came:
            yield Piece(came, end, COMMUNICATING, call=call)


def call_name(name: str) -> str:
    """A call without what tells it from its like: "all_reduce gradients" of "wait for all_reduce
    gradients 3/7"."""
    words = name.removeprefix("wait for ").split()
    return " ".join(word for word in words if not (word[0].isdigit() and "/" in word))


def union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time in intervals that are apart, in order."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif end > start:
            found.append((start, end))
    return found


def common(first: Iterable[tuple[float, float]], second: Iterable[tuple[float, float]]) -> float:
    """The seconds that two sets of intervals have in common."""
    a, b, total = union(first), union(second), 0.0
    i = j = 0
    while i < len(a) and j < len(b):
        total += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return total
