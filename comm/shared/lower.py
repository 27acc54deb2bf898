"""Cut a direct schedule to the arrays of one kind of call: places become spans of elements.

Still data: `prove_direct.execute_direct` proves the very lists that are run (`steps`).
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from ringlet.comm.schedules.direct import (
    AREAS,
    ARRAY,
    DirectStep,
    Fence,
    Move,
    Place,
    direct_steps,
    staged_slots,
    staged_steps,
)
from ringlet.comm.signature import ROWS

SOURCE, RESULT, AREA = 0, 1, 2
"""A rank's memories: the array that its peers may read, where its result goes (the same for
operations in place), and from AREA on its staging areas."""

STAGE_BYTES = 512 << 10
"""The size of a staging area: what is staged stays in the cache."""

IN_PLACE = ("all_reduce", "all_reduce_whole", "all_gather_shards", "broadcast", "reduce")
"""Operations whose result is the source."""

UNCUT = ("all_reduce_whole", "broadcast", "reduce", "barrier", *ROWS)
"""Operations whose source is one slot."""


class Span(NamedTuple):
    """Elements `start` to `stop` of one of a rank's memories."""

    rank: int
    memory: int
    start: int
    stop: int


class Shape(NamedTuple):
    """What ranks agree on in one kind of call, as far as cutting goes. `elements` is the length of
    the source, of `itemsize` bytes each; two ranks stage `stage` bytes of an all-reduce at once, as
    all that they touch should stay in the cache. More ranks, which may share cores, fill an area:
    they have fewer fences."""

    operation: str
    rank: int
    size: int
    root: int
    elements: int
    itemsize: int
    stage: int = STAGE_BYTES

    def slots(self) -> list[tuple[int, int]]:
        """The bounds of the source's slots, in elements: nearly equal, the same on all ranks."""
        count = 1 if self.operation in UNCUT else self.size
        return list(pairwise(self.elements * slot // count for slot in range(count + 1)))

    def width(self) -> int:
        """How many elements of each slot a chunk has: as many as fit into a staging area."""
        ranks = range(self.size)
        staged = max(
            len(staged_slots(self.operation, rank, self.size, self.root)) for rank in ranks
        )
        pair = self.operation == "all_reduce" and self.size == 2
        area = min(self.stage, STAGE_BYTES) if pair else STAGE_BYTES
        room = area // (self.itemsize * max(staged, 1))
        return room // 64 * 64 or room

    def chunks(self) -> int:
        """How many chunks that makes; at least one."""
        longest = max(stop - start for start, stop in self.slots())
        return max(1, -(-longest // self.width()))


def lower_direct(shape: Shape) -> list[list[Move[Span]]]:
    """The moves between the fences on arrays that all ranks reach."""
    steps = direct_steps(shape.operation, shape.rank, shape.size, shape.root)
    width = max(1, max(stop - start for start, stop in shape.slots()))
    return _lower(shape, steps, 0, width)


def lower_staged(shape: Shape, first: int) -> list[list[Move[Span]]]:
    """The same through the staging areas, beginning with area `first`."""
    steps = staged_steps(shape.operation, shape.rank, shape.size, shape.root, shape.chunks())
    return _lower(shape, steps, first, shape.width())


def _lower(
    shape: Shape, steps: Iterable[DirectStep], first: int, width: int
) -> list[list[Move[Span]]]:
    slots = shape.slots()
    stretches: list[list[Move[Span]]] = [[]]
    for step in steps:
        if isinstance(step, Fence):
            stretches.append([])
            continue
        targets = [_span(shape, slots, place, first, width, True) for place in step.targets]
        sources = [_span(shape, slots, place, first, width, False) for place in step.sources]
        if sources[0].start < sources[0].stop:
            stretches[-1].append(Move(tuple(targets), tuple(sources)))
    return stretches


def _span(
    shape: Shape,
    slots: list[tuple[int, int]],
    place: Place,
    first: int,
    width: int,
    target: bool,
) -> Span:
    operation, slot, chunk = shape.operation, place.slot, place.chunk
    begin, end = slots[0] if operation in UNCUT else slots[slot % shape.size]
    start, stop = min(begin + chunk * width, end), min(begin + (chunk + 1) * width, end)
    if place.memory != ARRAY:
        cell = staged_slots(operation, place.rank, shape.size, shape.root).index(slot) * width
        return Span(place.rank, AREA + (first + chunk) % AREAS, cell, cell + stop - start)
    if not target or operation in IN_PLACE:
        return Span(place.rank, SOURCE, start, stop)
    shift = {
        "all_gather": slot * shape.elements,  # rows lie one after the other
        "gather": slot * shape.elements,
        "reduce_scatter": -begin,  # a share lies alone
        "scatter": -begin,
    }.get(operation, 0)
    return Span(place.rank, RESULT, start + shift, stop + shift)
