"""Lesson 7: add up gradients of micro-batches, and choose the size of a bucket."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ringlet import nn

Ids = npt.NDArray[np.int64]


def accumulate(model: nn.Module, micro_batches: Sequence[tuple[Ids, Ids]]) -> float:
    """Leave in every parameter's `grad` the gradient of the mean loss over a whole batch.

    The batch comes as micro-batches of (ids, targets), both (B, T); B and T differ from one to the
    next. A target of -100 does not count. The mean is over all targets that count, of all
    micro-batches together; return it as a float.

    `model(ids)` gives logits (B, T, V). `nn.functional.token_cross_entropy(logits, targets,
    reduction=...)` is the loss of a micro-batch ("mean" or "sum" over those that count), and
    `loss.backward()` adds to the gradients that are there: also to those of the step before.
    Memory is short: run the backward of a micro-batch before the forward of the next.
    """
    raise NotImplementedError


def bucket_bytes(gradient_bytes: int, backward: float, latency: float, bandwidth: float) -> int:
    """The bytes of a bucket for which all gradients are summed as early as possible.

    Backward takes `backward` seconds, in which gradients become final at an even rate. They are cut
    into equal buckets. A bucket can be summed when all of it is final and the bucket before it has
    been summed, and takes `latency` + bytes / `bandwidth` seconds. From 1 to `gradient_bytes`.
    """
    raise NotImplementedError
