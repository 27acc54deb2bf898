"""Data parallelism: every rank has the whole model, and gradients are summed over the ranks.

Li et al., "PyTorch Distributed: experiences on accelerating data parallel training" (VLDB 2020),
section 3.2: gradients are summed in buckets, in the order in which backward makes them final, so
that the first are on their way while the later ones are still being computed.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from ringlet.comm import Group
from ringlet.nn import FlatParameters, Module, Slot
from ringlet.runtime.compression.compressor import Compressor
from ringlet.runtime.data.bucket_size import BUCKET_BYTES, SMALLER
from ringlet.runtime.data.reducer import Bucket, Reducer
from ringlet.runtime.device_collectives import Pending, Then, all_reduce, fetched, put_back


class DataParallel(Reducer):
    """Sums the gradients of a FlatParameters over a group while backward still runs.

    Buckets are sent in their order, which is the same on every rank. With `second`, a group of the
    same ranks, they take turns: while one's sum waits for a core, the link carries the next one.
    """

    def __init__(
        self,
        flat: FlatParameters,
        group: Group,
        bucket_bytes: int = BUCKET_BYTES,
        second: Group | None = None,
    ) -> None:
        elements = bucket_bytes // flat.dtype.itemsize
        super().__init__(group, make_buckets(flat.slots, elements, flat.size))
        self._flat, self.bucket_bytes = flat, bucket_bytes
        self.shard = flat
        self._ahead = len(self.buckets)  # how many may be sent while backward runs
        self._works: dict[int, Any] = {}
        self._lanes = [group] if second is None else [group, second]
        if group.size > 1:
            self._watch()

    def begin(self, passes: int = 1) -> None:
        super().begin(passes)
        self._flat.zero_grad()
        self._works = {}
        for bucket in self.buckets:
            bucket.waiting = passes * len(bucket.slots)

    def _bucket_final(self, bucket: Bucket) -> None:
        while len(self._works) < self._ahead and not self.buckets[len(self._works)].waiting:
            self._send(len(self._works))

    def finish(self) -> float:
        if self._begun and self._group.size > 1:
            self._send_rest(range(len(self.buckets)))
            self._wait_for(self._works.values())
        return super().finish()

    def _send_rest(self, numbers: Iterable[int]) -> None:
        if len(self._works) < len(self.buckets):
            self._flat.settle()  # zeros where backward wrote nothing
        for number in numbers:
            if number not in self._works:
                self._send(number)

    def _send(self, number: int) -> None:
        label = f"gradients {number + 1}/{len(self.buckets)}"
        lane = self._lanes[number % len(self._lanes)]
        self._works[number] = self._start(self.buckets[number], lane, label)

    def _before_blocks(
        self,
        blocks: Sequence[Module],
        after: Collection[int],
        require: Callable[[Sequence[int]], None],
    ) -> list[int]:
        """Call `require` before each block's forward pass, with the numbers of its buckets, before
        the last one's also with those of parameters that are used `after` it (ids); returns those
        that are needed before all blocks."""
        inside = [{id(parameter) for parameter in block.parameters()} for block in blocks]
        if inside:
            inside[-1].update(after)
        for block, own in zip(blocks, inside, strict=True):
            needed = self._buckets_with(own)
            block.register_forward_pre_hook(lambda *_, needed=needed: require(needed))
        every = {id(slot.parameter) for bucket in self.buckets for slot in bucket.slots}
        return self._buckets_with(every.difference(*inside))

    def _buckets_with(self, parameters: set[int]) -> list[int]:
        return [
            number
            for number, bucket in enumerate(self.buckets)
            if any(id(slot.parameter) in parameters for slot in bucket.slots)
        ]

    def _start(self, bucket: Bucket, group: Group, label: str) -> Pending:
        part = self._flat.memory_of_grad[bucket.start : bucket.stop]
        return all_reduce(group, part, async_op=True, label=label)


class CompressedDataParallel(DataParallel):
    """Sums gradients in fewer bytes; `residual` is what compression has kept back so far.

    The CPU encodes: device gradients are fetched first.
    """

    def __init__(
        self,
        flat: FlatParameters,
        group: Group,
        compressor: Compressor,
        bucket_bytes: int,
        second: Group | None = None,
    ) -> None:
        super().__init__(flat, group, bucket_bytes, second)
        self.compressor = compressor
        compressor.lanes = self._lanes
        self.residual = np.zeros(flat.size, np.float32)

    def _start(self, bucket: Bucket, group: Group, label: str) -> Pending:
        part = slice(bucket.start, bucket.stop)
        matrices = [
            (slot.start - bucket.start, slot.stop - bucket.start, slot.shape)
            for slot in bucket.slots
        ]
        grad, residual = self._flat.memory_of_grad[part], self.residual[part]
        here = fetched(grad)
        work = self.compressor.start(here, residual, matrices, place=bucket.start, label=label)
        return work if here is grad else Then(work, lambda _: put_back(here, grad))


def group_from_end(sizes: Sequence[int], elements: int) -> list[range]:
    """Group neighbours until they have `elements` elements together, the last ones first.

    Backward makes the last parameters final first; a tied embedding, registered first and used
    last in backward, comes last. Groups double from a quarter of that size, so that the link has
    work soon, and in the end have half of what is left, as nothing hides the last one's sum.
    """
    groups, stop, total, before, left = [], len(sizes), 0, 0, sum(sizes)
    for number in reversed(range(len(sizes))):
        total += sizes[number]
        if total >= max(elements // SMALLER, min(elements, before, left // 2)) or number == 0:
            groups.append(range(number, stop))
            before, left = before + total, left - total
            stop, total = number, 0
    return groups


def make_buckets(slots: Sequence[Slot], elements: int, size: int) -> list[Bucket]:
    """The buckets of a flat buffer in the order in which they are sent.

    What lies between two slots goes with the one before.
    """
    groups = group_from_end([slot.stop - slot.start for slot in slots], elements)
    starts = [*(slot.start for slot in slots), size]
    return [Bucket(starts[g.start], starts[g.stop], [slots[n] for n in g]) for g in groups]


def padded_starts(sizes: Sequence[int], elements: int, multiple: int) -> tuple[list[int], int]:
    """Starts of parameters for which every bucket's length is a multiple, and the whole size."""
    starts, place = [], 0
    for group in reversed(group_from_end(sizes, elements)):
        for number in group:
            starts.append(place)
            place += sizes[number]
        place += -place % multiple
    return starts, place
