"""Where a pipeline cuts a model, and what of its blocks is computed again.

Both are searches of their own with exact answers, made for one setting at a time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, combinations_with_replacement, pairwise
from operator import mul, sub
from typing import NamedTuple


def balanced(times: Sequence[float], stages: int) -> tuple[int, ...]:
    """How many blocks each of `stages` takes so that the slowest stage is as fast as can be.

    `times` are those of the blocks, in seconds, the first and the last one with the model's ends.
    Alpa's objective (Zheng et al., OSDI 2022, section 5: the sum of all stages plus
    m - 1 times the slowest) comes to this where a block costs the same in any stage. Of several
    answers this is the most even one, with what is left over in the last stages, which keep the
    fewest micro-batches.
    Raises ValueError if there are more stages than blocks.
    """
    blocks = len(times)
    if stages > blocks:
        raise ValueError(f"{stages} stages need as many blocks; there are {blocks}")
    sums = list(accumulate(times, initial=0.0))

    def begin(stop: int, stage: int, limit: float) -> int:
        """The first block that a stage can have which ends before `stop`; `stop` if none."""
        return min(stop, max(bisect_left(sums, sums[stop] - limit * (1 + 1e-9)), stage))

    def fits(stop: int, stage: int, limit: float) -> bool:
        """Whether this stage and those before can have all blocks before `stop`."""
        for each in range(stage, -1, -1):
            start = begin(stop, each, limit)
            if start == stop:
                return False
            stop = start
        return stop == 0

    # The slowest stage is a run of blocks: as slow as the average at least, and no slower than if
    # all had equally many blocks.
    cut = [blocks * stage // stages for stage in range(stages + 1)]
    most = max(sums[stop] - sums[start] for start, stop in pairwise(cut)) * (1 + 1e-9)
    least = sums[-1] / stages * (1 - 1e-9)
    limits = sorted({
        sums[stop] - before
        for start, before in enumerate(sums)
        for stop in range(
            bisect_left(sums, before + least, start), bisect_right(sums, before + most, start)
        )
    })  # fmt: skip
    slowest = limits[bisect_left(limits, True, key=lambda limit: fits(blocks, stages - 1, limit))]
    found, stop = [], blocks
    for stage in range(stages - 1, -1, -1):
        least = begin(stop, stage, slowest)
        start = max(least, stop - -(-stop // (stage + 1)))
        while start > least and not fits(start, stage - 1, slowest):
            start -= 1
        found.append(stop - start)
        stop = start
    return tuple(reversed(found))


class Kept(NamedTuple):
    """One way to treat a block: what it keeps in memory, in bytes, and what that costs, in
    seconds of computing again."""

    nbytes: float
    seconds: float


def knapsack(blocks: Sequence[Sequence[Kept]], room: float) -> tuple[int, ...] | None:
    """Which of its ways each block takes so that all fit into `room` bytes in the least time.

    A multiple-choice knapsack (Kellerer et al., "Knapsack Problems", 2004, chapter 11), solved
    exactly by its Pareto front: of several choices for the blocks so far, one that needs more of
    both than another is forgotten. Equal blocks are treated as one with several numbers of each
    way. None if nothing fits.
    """
    groups: dict[tuple[Kept, ...], list[int]] = {}
    for number, ways in enumerate(blocks):
        groups.setdefault(tuple(ways), []).append(number)
    fits = [_Way(0.0, 0.0, ())]
    for ways, members in groups.items():
        counted = _choices(ways, len(members))
        fits = _front(
            _Way(a.nbytes + b.nbytes, a.seconds + b.seconds, a.counts + b.counts)
            for a in fits
            for b in counted
            if a.nbytes + b.nbytes <= room
        )
    if not fits:
        return None
    best = min(fits, key=lambda way: way.seconds)
    found = [0] * len(blocks)
    for members, numbers in zip(groups.values(), best.counts, strict=True):
        chosen = (way for way, count in enumerate(numbers) for _ in range(count))
        for member, way in zip(members, chosen, strict=True):
            found[member] = way
    return tuple(found)


class _Way(NamedTuple):
    """A choice for some groups of blocks, and how many of each group take each way."""

    nbytes: float
    seconds: float
    counts: tuple[tuple[int, ...], ...]


def _choices(ways: Sequence[Kept], count: int) -> list[_Way]:
    """The choices for so many equal blocks of which none is worse in both."""
    most = ways[0].nbytes or 1.0  # which of them these are does not depend on the unit of bytes
    parts = tuple(Kept(way.nbytes / most, way.seconds) for way in ways)
    return [_way(ways, numbers) for numbers in _best_numbers(parts, count)]


@lru_cache(maxsize=4096)
def _best_numbers(ways: tuple[Kept, ...], count: int) -> list[tuple[int, ...]]:
    """How many blocks take each way, in these choices."""
    row = combinations_with_replacement(range(count + 1), len(ways) - 1)  # where it is cut
    every = (tuple(map(sub, (*cuts, count), (0, *cuts))) for cuts in row)
    return [way.counts[0] for way in _front(_way(ways, numbers) for numbers in every)]


def _way(ways: Sequence[Kept], numbers: tuple[int, ...]) -> _Way:
    nbytes, seconds = zip(*ways, strict=True)
    return _Way(sum(map(mul, numbers, nbytes)), sum(map(mul, numbers, seconds)), (numbers,))


def _front(choices: Iterable[_Way]) -> list[_Way]:
    """Those than which no other needs less memory and less time."""
    front: list[_Way] = []
    for way in sorted(choices):
        if not front or way.seconds < front[-1].seconds:
            front.append(way)
    return front
