"""Top-k: the largest elements travel, with their places; the others wait in the residual.

Lin, Han, Mao, Wang and Dally, "Deep gradient compression: reducing the communication bandwidth for
distributed training" (2018), section 3.1. Aji and Heafield, "Sparse communication for distributed
gradient descent" (2017).
"""

import math

import numpy as np

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.compression.collectives import Phases, add_residual
from ringlet.runtime.compression.compressor import Compressor, GradientStretch


class TopK(Compressor):
    """Sums the `ratio` of each rank's elements that have the largest absolute values."""

    name = "topk"

    def __init__(self, group: Group, ratio: float) -> None:
        super().__init__(group)
        self.ratio = ratio

    def _phases(self, stretch: GradientStretch) -> Phases:
        grad, residual = stretch.grad, stretch.residual
        add_residual(grad, residual)
        places = largest(grad, count(grad.size, self.ratio))
        message = np.stack([places, grad[places].view(np.int32)])
        residual[...] = grad
        residual[places] = 0
        rows = yield stretch.group.all_gather(message, async_op=True, label=stretch.label)
        grad.fill(0)
        with np.errstate(over="ignore", invalid="ignore"):
            for row in rows:
                grad[row[0]] += row[1].view(np.float32)  # no place comes twice in a row
        return grad


def top_k_bytes(size: int, ratio: float, ranks: int) -> int:
    """Bytes that each rank sends: 8 for each element that travels, to every other rank."""
    return (ranks - 1) * 8 * count(size, ratio)


def count(size: int, ratio: float) -> int:
    """How many of `size` elements travel: at least one, unless there is none."""
    return min(size, max(1, math.ceil(ratio * size)))


def largest(x: Array, count: int) -> Array:
    """The places of the `count` largest absolute values, as int32 in ascending order.

    NaN counts as larger than any number, so that it is not held back unnoticed.
    """
    if x.size > np.iinfo(np.int32).max:
        raise ValueError(f"places in a stretch of {x.size} elements do not fit 32 bits: cut it")
    places = np.argpartition(np.abs(x), x.size - count)[x.size - count :].astype(np.int32)
    places.sort()
    return places
