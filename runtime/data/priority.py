"""Data parallelism in which what is needed first goes first.

Jayarajan et al., "Priority-based parameter propagation for distributed DNN training" (P3, 2019)
and Peng et al., "A generic communication scheduler for distributed DNN training acceleration"
(ByteScheduler, 2019): the next forward pass needs the first layers first, and backward makes
theirs final last. What has not been sent when backward ends is therefore sent from the first layers
on, and the next forward pass begins while the last layers' gradients are still on their way.
"""

import time
from collections.abc import Sequence

import numpy as np

from ringlet.comm import Group, Work
from ringlet.nn import FlatParameters, Module
from ringlet.nn.module import ForwardPreHook
from ringlet.nn.optim import Optimizer
from ringlet.runtime.data.bucket_size import BUCKET_BYTES
from ringlet.runtime.data.data_parallel import DataParallel
from ringlet.runtime.staging import all_reduce

MEASURED_STEPS = 4
"""Steps after which the ranks stop to look how much a backward pass has time to send."""


class NeededFirst(DataParallel):
    """Sums gradients like DataParallel; the optimizer updates each block just before its use.

    All ranks send in the same order. The order changes no bit, only the time at which a bucket
    is summed.
    """

    def __init__(
        self,
        flat: FlatParameters,
        group: Group,
        blocks: Sequence[Module],
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        super().__init__(flat, group, bucket_bytes)
        self._ahead = len(self.buckets)  # so many are sent while backward runs
        self._steps = 0
        self._flying: dict[int, Work] = {}
        self._due: dict[int, Work | None] = {}
        self._optimizer: Optimizer | None = None
        self._waited = 0.0
        inside = {id(parameter) for block in blocks for parameter in block.parameters()}
        self._outside = self._buckets_with({id(slot.parameter) for slot in flat.slots} - inside)
        for block in blocks:
            needed = self._buckets_with({id(parameter) for parameter in block.parameters()})
            block.register_forward_pre_hook(self._hook(needed))

    # -- a step -------------------------------------------------------------------------------

    def begin(self, passes: int = 1) -> None:
        """See Reducer. The last step's updates may be due still."""
        super().begin(passes)
        self._flying = {}

    def before_forward(self) -> None:
        """See Reducer."""
        self._require(self._outside)

    def finish(self) -> float:
        """See Reducer; sends the rest, and waits for nothing."""
        if self._begun:
            self._flat.settle()
            self._look_at_progress()
            for number in reversed(range(len(self.buckets))):
                if number not in self._flying:
                    self._send(number)
        self._begun = False
        waited, self._waited = self._waited, 0.0
        return waited

    def arrive(self) -> None:
        """See Reducer."""
        for work in self._flying.values():
            work.wait()

    def update(self, optimizer: Optimizer) -> None:
        """See Reducer: begins a step of the optimizer, which goes on bucket by bucket."""
        self.complete()
        optimizer.prepare()
        self._optimizer = optimizer
        self._due = {number: self._flying.get(number) for number in range(len(self.buckets))}

    def complete(self) -> None:
        """See Reducer."""
        self._require(list(self._due))

    # -- inside -------------------------------------------------------------------------------

    def _buckets_with(self, parameters: set[int]) -> list[int]:
        return [
            number
            for number, bucket in enumerate(self.buckets)
            if any(id(slot.parameter) in parameters for slot in bucket.slots)
        ]

    def _hook(self, needed: Sequence[int]) -> ForwardPreHook:
        return lambda block, arguments: self._require(needed)

    def _require(self, numbers: Sequence[int]) -> None:
        """Update what these buckets hold, once their sums are here."""
        for number in numbers:
            if number not in self._due or self._optimizer is None:
                continue
            work, bucket = self._due.pop(number), self.buckets[number]
            if work is not None:
                started = time.perf_counter()
                work.wait()
                self._waited += time.perf_counter() - started
            self._optimizer.update_range(bucket.start, bucket.stop)

    def _send_final(self) -> None:
        """Send what is final, in the buckets' order, as far as backward has time for it."""
        while len(self._flying) < self._ahead:
            number = len(self._flying)
            if self.buckets[number].waiting:
                return
            self._send(number)

    def _send(self, number: int) -> None:
        label = f"gradients {number + 1}/{len(self.buckets)}"
        bucket = self.buckets[number]
        part = self._flat.memory_of_grad[bucket.start : bucket.stop]
        self._flying[number] = all_reduce(self._group, part, async_op=True, label=label)

    def _look_at_progress(self) -> None:
        """In the first steps: how many buckets were summed when backward ended, on all ranks."""
        if self._steps >= MEASURED_STEPS:
            return
        self._steps += 1
        done = sum(work.done() for work in self._flying.values())
        count = np.array([done + 1], np.int64)  # one more is on its way
        self._group.all_reduce(count, op="min", label="progress of gradients")
        self._ahead = min(int(count[0]), len(self.buckets))
