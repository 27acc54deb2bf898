"""What every way of summing gradients over ranks has in common: the order of a training step."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ringlet.comm import Group
from ringlet.nn import Parameter, Slot
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import copy_from_host
from ringlet.nn.flat import Flat
from ringlet.nn.optim import FlatOptimizer
from ringlet.runtime.device_collectives import Pending


@dataclass(eq=False)
class Bucket:
    """Elements `start` to `stop` of the flat gradients, which travel together.

    `waiting` counts its parameters' gradients that backward has yet to make.
    """

    start: int
    stop: int
    slots: list[Slot]
    waiting: int = 0

    @property
    def size(self) -> int:
        """Its elements, padding included."""
        return self.stop - self.start


class Reducer:
    """Sums the gradients of some parameters over a group of ranks, and shares their updates.

    Its life is a training step, in this order; every rank scales its loss for the whole batch:

    1. `begin(passes)`: gradients count as zeros, and that many micro-batches will add to them.
    2. For each micro-batch `before_forward()`, forward and backward, `end_pass()`. In backward a
       hook tells when a parameter's gradient is final, and when all of a bucket are, the bucket
       starts to travel: `_bucket_final(bucket)`.
    3. `finish()`: what is left is sent. Unless the reducer puts it off, all is summed then.
    4. `wait()`: all is summed, for whoever needs the gradients themselves (clipping, norms).
    5. `update(optimizer)`: the optimizer changes `shard`, this rank's part of the parameters, and
       `publish()` shows every rank the new parameters.
    6. `complete()`: what an update has put off is done (before evaluation and checkpoints).

    With local steps the group is a replica's, and OuterOptimizer.agree follows some of the
    updates. `parameters` are all that this rank computes with, by name. A reducer fills in what it
    needs; this one sums nothing.
    """

    shard: Flat

    def __init__(self, group: Group, buckets: Sequence[Bucket]) -> None:
        self._group, self.buckets = group, list(buckets)
        self._begun = False
        self._waited = 0.0
        self.parameters = {s.name: s.parameter for bucket in self.buckets for s in bucket.slots}

    def _watch(self) -> None:
        """Learn from backward which gradients are final."""
        for bucket in self.buckets:
            for slot in bucket.slots:
                slot.parameter.register_post_accumulate_grad_hook(partial(self._final, bucket))

    def begin(self, passes: int = 1) -> None:
        """Begin a step in which `passes` backward passes add to the gradients."""
        self._begun = True
        self._waited = 0.0

    def before_forward(self) -> None:
        """See to it that the parameters outside the blocks are here."""

    def _final(self, bucket: Bucket, parameter: Parameter) -> None:
        """One pass's gradient of a parameter of the bucket is complete."""
        if self._begun:
            bucket.waiting -= 1
            if not bucket.waiting:
                self._bucket_final(bucket)

    def _bucket_final(self, bucket: Any) -> None:
        """All gradients of a bucket are final: start to sum them, or the next in order."""

    def end_pass(self) -> None:
        """End the backward pass of a micro-batch."""

    def finish(self) -> float:
        """Send what is left; return the seconds for which this rank waited in the step.

        A parameter that the loss did not depend on has a gradient of zeros.
        """
        self._begun = False
        return self._waited

    def wait(self) -> None:
        """Wait until all gradients of the shard are summed."""

    def update(self, optimizer: FlatOptimizer) -> None:
        """Let the optimizer take a step, and show every rank the new parameters."""
        optimizer.step()
        self.publish()

    def publish(self) -> None:
        """Show every rank the parameters that the optimizer has changed."""

    def complete(self) -> None:
        """Do what an update has put off."""

    def store(self, name: str, value: Array) -> None:
        """Set a parameter that this rank computes with, from a host array."""
        self.store_part(name, value.reshape(-1), 0)

    def kept(self, name: str) -> tuple[int, int]:
        """The elements of a parameter that this rank keeps, from the first to before the last."""
        return 0, self.parameters[name].numel()

    def store_part(self, name: str, values: Array, first: int) -> None:
        """Set elements of a parameter from the `first` on, of which those kept here count."""
        parameter = self.parameters[name]
        copy_from_host(parameter.data.reshape(-1)[first : first + values.size], values)

    def _wait_for(self, works: Iterable[Pending]) -> None:
        started = time.perf_counter()
        for work in works:
            work.wait()
        self._waited += time.perf_counter() - started
