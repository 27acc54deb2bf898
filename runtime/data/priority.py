"""Data parallelism by priority: the gradients that the next forward pass needs first go first.

Jayarajan et al., "Priority-based parameter propagation for distributed DNN training" (P3, 2019)
and Peng et al., "A generic communication scheduler for distributed DNN training acceleration"
(ByteScheduler, 2019): the next forward pass needs the first layers first, and backward makes
theirs final last. What has not been sent when backward ends is therefore sent from the first layers
on, and the next forward pass begins while the last layers' gradients are still on their way.
"""

from collections.abc import Collection, Sequence

import numpy as np

from ringlet.comm import Group, Work
from ringlet.nn import FlatParameters, Module
from ringlet.nn.optim import FlatOptimizer
from ringlet.runtime.data.data_parallel import DataParallel

MEASURED_STEPS = 4
"""Steps in which the ranks measure how many buckets a backward pass has time to send."""


class PriorityDataParallel(DataParallel):
    """Sums gradients like DataParallel; the optimizer updates each block just before its use.

    All ranks send in the same order. It changes no bit, only when a bucket is summed.
    """

    def __init__(
        self,
        flat: FlatParameters,
        group: Group,
        blocks: Sequence[Module],
        bucket_bytes: int,
        second: Group | None = None,
        after: Collection[int] = (),
    ) -> None:
        super().__init__(flat, group, bucket_bytes, second)
        self._steps = 0
        self._due: dict[int, Work | None] = {}
        self._optimizer: FlatOptimizer | None = None
        self._outside = self._before_blocks(blocks, after, self._require)

    def before_forward(self) -> None:
        self._require(self._outside)

    def finish(self) -> float:
        """Send the rest, the first layers' first, and wait for nothing."""
        if self._begun:
            self._measure_progress()
            self._send_rest(reversed(range(len(self.buckets))))
        self._begun = False
        return self._waited

    def wait(self) -> None:
        for work in self._works.values():
            work.wait()

    def update(self, optimizer: FlatOptimizer) -> None:
        """Begin a step of the optimizer, which goes on bucket by bucket."""
        self.complete()
        optimizer.prepare()
        self._optimizer = optimizer
        self._due = {number: self._works.get(number) for number in range(len(self.buckets))}

    def complete(self) -> None:
        self._require(list(self._due))

    def _require(self, numbers: Sequence[int]) -> None:
        """Update these buckets' parameters, once their gradients are summed."""
        for number in numbers:
            if number not in self._due or self._optimizer is None:
                continue
            work, bucket = self._due.pop(number), self.buckets[number]
            if work is not None:
                self._wait_for([work])
            self._optimizer.update_range(bucket.start, bucket.stop)

    def _measure_progress(self) -> None:
        """In the first steps: how many buckets were summed when backward ended, on all ranks."""
        if self._steps >= MEASURED_STEPS:
            return
        self._steps += 1
        done = sum(work.done() for work in self._works.values())
        count = np.array([done + len(self._lanes)], np.int64)  # as many are on their way
        self._group.all_reduce(count, op="min", label="progress of gradients")
        self._ahead = min(int(count[0]), len(self.buckets))
