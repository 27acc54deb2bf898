"""Data parallelism: every rank has the whole model, and gradients are summed over the ranks.

Li et al., "PyTorch Distributed: experiences on accelerating data parallel training" (VLDB 2020),
section 3.2: gradients are summed in buckets, in the order in which backward makes them final, so
that the first are on their way while the later ones are still being computed.
"""

import time
from dataclasses import dataclass, field

from ringlet.comm import Group, Work
from ringlet.nn import FlatParameters, Parameter, Slot

BUCKET_BYTES = 1 << 20


@dataclass
class Bucket:
    """A stretch of the flat gradient, and which of its parameters are not final yet."""

    start: int
    stop: int
    parameters: list[Parameter]
    waiting: int = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = len(self.parameters)


class DataParallel:
    """Sums the gradients of a FlatParameters over a group, while backward still runs.

    Before the last backward of a step call `arm()`, after it `finish()`; backward passes before
    that accumulate locally. Every rank must scale its loss for the whole batch: the sum of all
    ranks' gradients is the gradient.
    """

    def __init__(
        self, flat: FlatParameters, group: Group, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._flat, self._group = flat, group
        self.buckets = make_buckets(flat.slots, bucket_bytes // flat.dtype.itemsize)
        self._works: list[Work] = []
        self._armed = False
        self._bucket_of = {
            id(parameter): bucket for bucket in self.buckets for parameter in bucket.parameters
        }
        if group.size > 1:
            for slot in flat.slots:
                slot.parameter.register_post_accumulate_grad_hook(self._final)

    def arm(self) -> None:
        """The next backward is the step's last: send what becomes final."""
        self._armed = self._group.size > 1
        self._works.clear()
        for bucket in self.buckets:
            bucket.waiting = len(bucket.parameters)

    def finish(self) -> float:
        """Wait until all gradients are summed; returns the seconds of waiting.

        A parameter that the loss did not depend on has a gradient of zeros.
        """
        if not self._armed:
            return 0.0
        self._armed = False
        if len(self._works) < len(self.buckets):
            _ = self._flat.grad  # zeros where backward wrote nothing
            while len(self._works) < len(self.buckets):
                self._send_next()
        start = time.perf_counter()
        for work in self._works:
            work.wait()
        return time.perf_counter() - start

    def _final(self, parameter: Parameter) -> None:
        """A parameter's gradient is final."""
        if not self._armed:
            return
        self._bucket_of[id(parameter)].waiting -= 1
        # Always in the buckets' order, which is the same on every rank.
        while len(self._works) < len(self.buckets):
            if self.buckets[len(self._works)].waiting:
                return
            self._send_next()

    def _send_next(self) -> None:
        number = len(self._works)
        bucket = self.buckets[number]
        part = self._flat.memory_of_grad[bucket.start : bucket.stop]
        label = f"gradients {number + 1}/{len(self.buckets)}"
        self._works.append(self._group.all_reduce(part, async_op=True, label=label))


def make_buckets(slots: list[Slot], elements: int) -> list[Bucket]:
    """Stretches of about so many elements, from the end of the flat buffer to its start.

    Backward makes the last parameters final first; a tied embedding, registered first and used
    last in backward, comes last.
    """
    buckets: list[Bucket] = []
    pending: list[Slot] = []
    for slot in reversed(slots):
        pending.append(slot)
        if pending[0].stop - slot.start >= elements:
            buckets.append(_bucket(pending))
            pending = []
    if pending:
        buckets.append(_bucket(pending))
    return buckets


def _bucket(slots: list[Slot]) -> Bucket:
    return Bucket(slots[-1].start, slots[0].stop, [slot.parameter for slot in slots])
