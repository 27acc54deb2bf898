"""ZeRO stage 1: data parallelism in which each rank updates only a part of the parameters.

Rajbhandari, Rasley, Ruwase and He, "ZeRO: memory optimizations toward training trillion parameter
models" (2020). Stage 1 shards the optimizer's state; stages 2 and 3 are in zero_blocks.py.
Gradients are reduce-scattered and parameters all-gathered, which sends as much as an all-reduce.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from ringlet.comm import Group
from ringlet.nn import FlatParameters, Module, Slot, common_dtype
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.flat import Flat, Named
from ringlet.nn.optim import FlatOptimizer
from ringlet.runtime.data.bucket_size import BUCKET_BYTES
from ringlet.runtime.data.data_parallel import DataParallel, padded_starts
from ringlet.runtime.data.reducer import Bucket
from ringlet.runtime.device_collectives import Pending, all_gather, empty, reduce_scatter


class Shard(Flat):
    """This rank's parts of some buckets, one after the other: (parameters, gradients) each."""

    def __init__(self, slots: list[Slot], parts: Sequence[tuple[Array, Array]]) -> None:
        self.slots = slots
        self._parts = parts
        bounds = np.cumsum([0, *(len(data) for data, _ in parts)]).tolist()
        self.segments = list(pairwise(bounds))
        self._starts = bounds[:-1]
        self.size: int = bounds[-1]
        self.dtype = parts[0][0].dtype

    def settle(self) -> None:
        """Do nothing: sums over the ranks leave no part unwritten."""

    def views(self, start: int, stop: int) -> tuple[Array, Array]:
        number = bisect_right(self._starts, start) - 1
        place = slice(start - self._starts[number], stop - self._starts[number])
        data, grad = self._parts[number]
        return data[place], grad[place]


def slots_within(slots: Sequence[Slot], start: int, stop: int, offset: int) -> list[Slot]:
    """The parts of the slots between two places, as slots of a shard from `offset` on."""
    found = []
    for slot in slots:
        first, last = max(slot.start, start), min(slot.stop, stop)
        if first < last:
            place = offset + first - start
            bounds = place, place + last - first, (last - first,)
            found.append(Slot(slot.name, slot.parameter, *bounds, first - slot.start))
    return found


class ZeroOptimizer(DataParallel):
    """Stage 1: gradients are reduce-scattered, and each rank updates its part of each bucket."""

    def __init__(
        self,
        named: Named,
        group: Group,
        bucket_bytes: int = BUCKET_BYTES,
        copy: bool = True,
        second: Group | None = None,
        blocks: Sequence[Module] = (),
        after: Collection[int] = (),
    ) -> None:
        named = list(named)
        elements = bucket_bytes // common_dtype(p for _, p in named).itemsize
        starts, size = padded_starts([p.numel() for _, p in named], elements, group.size)
        flat = FlatParameters(named, partial(empty, group), starts=starts, size=size, copy=copy)
        super().__init__(flat, group, bucket_bytes, second)
        slots: list[Slot] = []
        parts, offset = [], 0
        for bucket in self.buckets:
            part = self._part(bucket)
            parts.append(flat.views(part.start, part.stop))
            slots += slots_within(bucket.slots, part.start, part.stop, offset)
            offset += part.stop - part.start
        self.shard = Shard(slots, parts)
        self._arriving: dict[int, Pending] = {}
        # On one host gathering takes the cores that the next forward pass would compute on.
        self._ahead_of_use = bool(blocks) and second is not None
        if self._ahead_of_use:
            self._outside = self._before_blocks(blocks, after, self._require)

    def update(self, optimizer: FlatOptimizer) -> None:
        """Bucket by bucket: one's parameters travel while the next one's are updated."""
        optimizer.prepare()
        self._publish(lambda number: optimizer.update_range(*self.shard.segments[number]))

    def publish(self) -> None:
        self._publish(lambda number: None)

    def _publish(self, before: Callable[[int], None]) -> None:
        """Gather the parameters, `before` each bucket's with its number: over a network while the
        next forward pass begins, each block's until it is used."""
        for number in reversed(range(len(self.buckets))):  # the first layers are needed first
            before(number)
            bucket, lane = self.buckets[number], self._lanes[number % len(self._lanes)]
            mine = self._flat.data[self._part(bucket)]
            out = self._flat.data[bucket.start : bucket.stop].reshape(self._group.size, -1)
            work = all_gather(lane, mine, out=out, async_op=True, label="parameters")
            self._arriving[number] = work
        if not self._ahead_of_use:
            self.complete()

    def before_forward(self) -> None:
        if self._arriving:
            self._require(self._outside)

    def complete(self) -> None:
        self._require(list(self._arriving))

    def _require(self, numbers: Iterable[int]) -> None:
        """Wait for these buckets' parameters."""
        for number in numbers:
            if number in self._arriving:
                self._wait_for([self._arriving.pop(number)])

    def _part(self, bucket: Bucket) -> slice:
        length = bucket.size // self._group.size
        start = bucket.start + self._group.rank * length
        return slice(start, start + length)

    def _start(self, bucket: Bucket, group: Group, label: str) -> Pending:
        grad = self._flat.memory_of_grad
        whole, mine = grad[bucket.start : bucket.stop], grad[self._part(bucket)]
        return reduce_scatter(group, whole, out=mine, async_op=True, label=label)
