"""Data parallelism: every rank has the whole model, and gradients are summed over the ranks.

Li et al., "PyTorch Distributed: experiences on accelerating data parallel training" (VLDB 2020),
section 3.2: gradients are summed in buckets, in the order in which backward makes them final, so
that the first are on their way while the later ones are still being computed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ringlet.comm import Group
from ringlet.nn import FlatParameters, Parameter, Slot
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import copy_from_host
from ringlet.nn.flat import Flat
from ringlet.nn.optim import Optimizer
from ringlet.runtime.compression.compressor import Compressor
from ringlet.runtime.data.bucket_size import BUCKET_BYTES
from ringlet.runtime.staging import all_reduce, fetched, put_back
from ringlet.runtime.tensor.regions import Pending, Then


@dataclass
class Bucket:
    """A stretch of the flat gradient, and how many of its parameters' passes are missing."""

    start: int
    stop: int
    slots: list[Slot]
    waiting: int = 0


class Reducer:
    """What all ways of sharing the gradients' sum have in common; this one sums nothing.

    For each step call `begin(passes)`, run so many forward and backward passes with `end_pass()`
    after each, then `finish()`; every rank must scale its loss for the whole batch. The optimizer
    works on `shard`, and after it `publish()` shows every rank the new parameters. `parameters`
    are all that this rank computes with, by name.
    """

    shard: Flat
    parameters: dict[str, Parameter]

    def begin(self, passes: int = 1) -> None:
        """Take all gradients as zeros; so many passes will add to them."""

    def before_forward(self) -> None:
        """See to it that what is used outside the blocks is here."""

    def end_pass(self) -> None:
        """A backward pass has ended."""

    def finish(self) -> float:
        """Wait until all gradients of the shard are summed; returns the seconds of waiting.

        A parameter that the loss did not depend on has a gradient of zeros.
        """
        return 0.0

    def arrive(self) -> None:
        """Wait until all gradients of the shard are summed, if `finish` has not."""

    def update(self, optimizer: Optimizer) -> None:
        """Let the optimizer take a step, and show every rank the new parameters."""
        optimizer.step()
        self.publish()

    def publish(self) -> None:
        """Show every rank the parameters that the optimizer has changed."""

    def complete(self) -> None:
        """Carry out what is left of an update."""

    def store(self, name: str, value: Array) -> None:
        """Set a parameter that this rank computes with, from an array of the host."""
        parameter = self.parameters[name]
        copy_from_host(parameter.data, value.reshape(parameter.shape))


class DataParallel(Reducer):
    """Sums the gradients of a FlatParameters over a group, while backward still runs."""

    def __init__(
        self, flat: FlatParameters, group: Group, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._flat, self._group = flat, group
        self.shard = flat
        self.parameters = {slot.name: slot.parameter for slot in flat.slots}
        self.bucket_bytes = bucket_bytes
        self.buckets = make_buckets(flat.slots, bucket_bytes // flat.dtype.itemsize, flat.size)
        self._works: list[Pending] = []
        self._begun = False
        self._bucket_of = {
            id(slot.parameter): bucket for bucket in self.buckets for slot in bucket.slots
        }
        for slot in flat.slots if group.size > 1 else ():
            slot.parameter.register_post_accumulate_grad_hook(self._final)

    def begin(self, passes: int = 1) -> None:
        """See Reducer. What is final after the last pass is sent at once."""
        self._flat.zero_grad()
        self._works.clear()
        self._begun = self._group.size > 1
        for bucket in self.buckets:
            bucket.waiting = passes * len(bucket.slots)

    def finish(self) -> float:
        """See Reducer."""
        if not self._begun:
            return 0.0
        self._begun = False
        if len(self._works) < len(self.buckets):
            self._flat.settle()  # zeros where backward wrote nothing
            while len(self._works) < len(self.buckets):
                self._send_next()
        start = time.perf_counter()
        for work in self._works:
            work.wait()
        return time.perf_counter() - start

    def _final(self, parameter: Parameter) -> None:
        """A parameter's gradient of one pass is complete."""
        if not self._begun:
            return
        self._bucket_of[id(parameter)].waiting -= 1
        self._send_final()

    def _send_final(self) -> None:
        """Send what is final, always in the buckets' order, which is the same on every rank."""
        while len(self._works) < len(self.buckets):
            if self.buckets[len(self._works)].waiting:
                return
            self._send_next()

    def _send_next(self) -> None:
        number = len(self._works)
        label = f"gradients {number + 1}/{len(self.buckets)}"
        self._works.append(self._start(self.buckets[number], label))

    def _start(self, bucket: Bucket, label: str) -> Pending:
        part = self._flat.memory_of_grad[bucket.start : bucket.stop]
        work: Pending = all_reduce(self._group, part, async_op=True, label=label)
        return work


class CompressedDataParallel(DataParallel):
    """Sums gradients in fewer bytes; `residual` is what this rank has not been able to say yet.

    The CPU encodes: gradients of a device are fetched before.
    """

    def __init__(
        self,
        flat: FlatParameters,
        group: Group,
        compressor: Compressor,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        super().__init__(flat, group, bucket_bytes)
        self.compressor = compressor
        self.residual = np.zeros(flat.size, np.float32)

    def _start(self, bucket: Bucket, label: str) -> Pending:
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
    """Numbers of neighbours that have about so many elements together, the last ones first.

    Backward makes the last parameters final first; a tied embedding, registered first and used
    last in backward, comes last.
    """
    groups, stop, total = [], len(sizes), 0
    for number in reversed(range(len(sizes))):
        total += sizes[number]
        if total >= elements or number == 0:
            groups.append(range(number, stop))
            stop, total = number, 0
    return groups


def make_buckets(slots: Sequence[Slot], elements: int, size: int) -> list[Bucket]:
    """The stretches of the flat buffer in the order in which they are sent.

    What lies between two slots goes with the one before.
    """
    groups = group_from_end([slot.stop - slot.start for slot in slots], elements)
    starts = [*(slot.start for slot in slots), size]
    return [Bucket(starts[g.start], starts[g.stop], [slots[n] for n in g]) for g in groups]


def padded_starts(sizes: Sequence[int], elements: int, multiple: int) -> tuple[list[int], int]:
    """Places such that each bucket's length is a multiple of a number, and the whole size."""
    starts, place = [], 0
    for group in reversed(group_from_end(sizes, elements)):
        for number in group:
            starts.append(place)
            place += sizes[number]
        place += -place % multiple
    return starts, place
