"""Gradient clipping: by the norm of all gradients, or element by element."""

import itertools
import math
from collections.abc import Sequence

from ringlet.nn.backend import Array, block_size, to_host, xp
from ringlet.nn.flat import FlatParameters
from ringlet.nn.optim.optimizer import BLOCK

__all__ = ["clip_grad_norm_", "clip_grad_value_", "grad_norm"]


def grad_norm(grad: Array) -> float:
    """The 2-norm of a flat array; blocks are added in float64, in a fixed order."""
    return math.sqrt(sums_of_squares([grad])[0])


def sums_of_squares(arrays: Sequence[Array]) -> list[float]:
    """Each flat array's sum of squares; blocks are added in float64, in a fixed order.

    The host fetches the sums of all blocks from a device at once.
    """
    step = block_size(BLOCK)
    parts = [
        [xp.dot(array[n : n + step], array[n : n + step]) for n in range(0, array.size, step)]
        for array in arrays
    ]
    sums = [part for each in parts for part in each]
    values = iter(to_host(xp.stack(sums)).tolist() if sums else ())
    return [sum(itertools.islice(values, len(each))) for each in parts]


def clip_grad_norm_(flat: FlatParameters, max_norm: float) -> float:
    """Scale all gradients so that their norm is at most `max_norm`; returns the norm before.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013).
    """
    grad = flat.grad
    norm = grad_norm(grad)
    if norm > max_norm:
        grad *= max_norm / (norm + 1e-6)
    return norm


def clip_grad_value_(flat: FlatParameters, clip_value: float) -> None:
    """Limit every element of the gradients to +- clip_value."""
    if clip_value < 0:
        raise ValueError(f"clip_value is {clip_value}; it must not be negative")
    grad = flat.grad
    xp.clip(grad, -clip_value, clip_value, out=grad)
