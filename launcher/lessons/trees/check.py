"""Proves the student's schedules, counts their rounds, and prices the number of segments."""

import math
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.algorithms import schedule
from ringlet.comm.schedules.price import LinkCost, Network, price
from ringlet.comm.schedules.prove import prove
from ringlet.comm.schedules.schedule import Schedule, Send
from ringlet.comm.schedules.svg import counted
from ringlet.launcher.lessons.schedules import schedule_of
from ringlet.launcher.lessons.words import whole

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 21)
SEGMENTS = (1, 2, 5)

LINKS = (
    (64 << 20, 8, 50e-6, 1e9),
    (64 << 20, 16, 50e-6, 1e9),
    (1 << 20, 8, 200e-6, 1e8),
    (4 << 20, 2, 50e-6, 1e9),
    (64, 8, 50e-6, 1e9),
)
"""Bytes, ranks, overhead and bandwidth."""

MOST_SEGMENTS, TOLERANCE = 4096, 1.005

HINTS = (
    "tree: give every rank but the root one parent, and let each rank send to its children only "
    "when it has the slot. Whoever has it must send in every round until nobody is left.",
    "tree: think of size 8. Round 1: 0 sends to 4. Round 2: 0 to 2, 4 to 6. Round 3: 0 to 1, 2 to "
    "3, 4 to 5, 6 to 7. The parent of a rank is the rank without its lowest one bit.",
    "tree: rank r has children r + d for d = ..., 4, 2, 1 below its lowest one bit (the root: "
    "below size), the farthest first, since its branch is the deepest. Leave out those beyond the "
    "last rank.",
    "chain: do not receive all segments before you send the first. Receive segment 0, send it, "
    "receive segment 1, send it, ... The root only sends, the last rank only receives.",
    "both_ways: what goes up the ring is the ring all-gather of lesson 5, and what goes down is "
    "its mirror image. Each part goes half of the way up and half of the way down, so stop early.",
    "both_ways: in round k (from 0) rank r sends slot r - k up and slot r + k down, both before "
    "it waits, and then receives slot r - k - 1 from below and r + k + 1 from above. Of an even "
    "number of ranks the opposite rank needs each part once: let it come from below alone.",
    "best_segments: write the time as (size - 2 + s) (overhead + nbytes / (s bandwidth)), multiply "
    "it out, and set the derivative by s to zero. Then mind the cases in which s is below 1.",
)


def check(answer: Any) -> Iterator[str]:
    """What is wrong with the three schedules and the number of segments."""
    for name, proven in (("tree", _tree), ("chain", _chain), ("both_ways", _both_ways)):
        try:
            proven(answer)
        except ScheduleError as error:
            yield f"{name}: {error}"
    for case in LINKS:
        if problem := _segments_problem(case, answer.best_segments(*case)):
            yield f"best_segments{case}: {problem}"
            return


def _tree(answer: Any) -> None:
    """Raise ScheduleError if the tree is wrong, or takes too long; so do the next two."""
    for size in SIZES:
        made = schedule_of(answer, "tree", "broadcast", size, 1)
        _check_rounds(made, math.ceil(math.log2(size)), "a tree")


def _chain(answer: Any) -> None:
    for size, segments in product(SIZES[1:], SEGMENTS):
        made = schedule_of(answer, "chain", "broadcast", size, segments, segments)
        _check_peers(made, "the next one", 1)
        _check_rounds(made, size - 2 + segments, f"a chain of {counted(segments, 'segment')}")


def _both_ways(answer: Any) -> None:
    for size in SIZES:
        made = schedule_of(answer, "both_ways", "all_gather", size, size)
        _check_peers(made, "a neighbour", 1, size - 1)
        _check_rounds(made, size // 2, "a ring both ways", ports=2, most=size - 1)


def _check_peers(made: Schedule, whom: str, *distances: int) -> None:
    """Raise ScheduleError if a rank sends to another than those at these distances up the ring."""
    for rank, steps in enumerate(made.steps):
        for step in steps:
            if isinstance(step, Send) and (step.peer - rank) % made.size not in distances:
                raise ScheduleError(f"{made}: rank {rank} sends to rank {step.peer}, not to {whom}")


def _check_rounds(
    made: Schedule, rounds: int, what: str, ports: int = 1, most: int | None = None
) -> None:
    """Raise ScheduleError for a schedule that is wrong, or takes more than the textbook's."""
    proof = prove(made, ports=ports)
    if most is not None and max(proof.sent) > most:
        rank = proof.sent.index(max(proof.sent))
        raise ScheduleError(
            f"{made}: the result is right, but rank {rank} sends "
            f"{counted(proof.sent[rank], 'slot')}, and {most} would do"
        )
    if proof.slot_times > rounds:
        raise ScheduleError(
            f"{made}: the result is right, but it takes {counted(proof.slot_times, 'round')}; "
            f"{what} takes {rounds}"
        )


def _segments_problem(case: tuple[int, int, float, float], returned: Any) -> str:
    """What is wrong with a number of segments; "" if nothing is."""
    nbytes, size, overhead, bandwidth = case
    segments = whole(returned)
    if segments is None:
        return f"it returned {returned!r:.40}, not a whole number"
    if not 1 <= segments <= MOST_SEGMENTS:
        return f"it returned {segments}; there must be at least 1, and {MOST_SEGMENTS} are enough"
    exact = max(1, math.floor(math.sqrt((size - 2) * nbytes / (overhead * bandwidth))))
    best = min((exact, exact + 1), key=lambda count: _seconds(case, count))
    if (own := _seconds(case, segments)) > TOLERANCE * _seconds(case, best):
        return (
            f"with {counted(segments, 'segment')} the chain takes {own * 1e3:.4g} ms, "
            f"with {best} {_seconds(case, best) * 1e3:.4g} ms"
        )
    return ""


@cache
def _seconds(case: tuple[int, int, float, float], segments: int) -> float:
    """Seconds of a chain of so many segments."""
    nbytes, size, overhead, bandwidth = case
    network = Network.uniform(LinkCost(0.0, bandwidth, overhead))
    return price(schedule("broadcast", "chain", size), network, nbytes, segments).seconds
