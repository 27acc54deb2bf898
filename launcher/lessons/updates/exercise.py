"""Lesson 12: ZeRO 1 over a flat buffer.

All parameters of a model lie in one array `data`, all gradients in another. Each of the ranks
keeps Adam's state for its shard only, updates that, and gathers the rest. `group` is what
`comm.init()` gives: `group.reduce_scatter(x)`, x (n * k,) -> this rank's part (k,) of the ranks'
sum; `group.all_gather(x)`, x (k,) -> (n, k); `group.all_reduce(x)`, in place.

What a function is given stays as it is, unless it says otherwise. Write them in this order;
`ringlet lesson check 12` says what goes wrong first.
"""

import numpy as np

from ringlet.comm import Group
from ringlet.comm.arrays import Array


def padded(size: int, ranks: int) -> int:
    """The length of a buffer that holds `size` numbers and divides evenly over the ranks: the
    least that there is."""
    raise NotImplementedError


def shard_of(size: int, ranks: int, rank: int) -> tuple[int, int]:
    """Where this rank's shard of the padded buffer begins and where it ends: (start, stop)."""
    raise NotImplementedError


def summed_shard(group: Group, grad: Array) -> Array:
    """grad (size,), this rank's own gradient -> this rank's shard of the sum over the ranks.

    The shard has the padded length / group.size; padding is zeros. Every rank has scaled its loss
    for the whole batch, so a sum is what is wanted. Send no more than half of an all_reduce.
    """
    raise NotImplementedError


def total_norm(group: Group, shard: Array) -> float:
    """The 2-norm of the whole gradient, of which every rank has a shard: the same number on every
    rank."""
    raise NotImplementedError


def adamw(
    data: Array, grad: Array, mean: Array, square: Array, step: int, rate: float,
    betas: tuple[float, float], eps: float, decay: Array,
) -> None:  # fmt: skip
    """One AdamW step of some numbers; data, mean and square (k,) are changed in place.

    `step` counts from 1, and `decay` (k,) is the weight decay of each number. With g the gradient:

        data   = data - rate * decay * data
        mean   = betas[0] * mean + (1 - betas[0]) * g
        square = betas[1] * square + (1 - betas[1]) * g * g
        data   = data - rate * m / (sqrt(s) + eps), with m and s corrected for their bias:
                 m = mean / (1 - betas[0] ** step), s = square / (1 - betas[1] ** step)
    """
    raise NotImplementedError


def zero_step(
    group: Group, data: Array, grad: Array, mean: Array, square: Array, step: int, rate: float,
    betas: tuple[float, float], eps: float, decay: Array, max_norm: float,
) -> float:  # fmt: skip
    """A training step's update: data (size,), the same on every rank, is changed in place.

    grad (size,) is this rank's own, decay (size,) the weight decay of each number; mean and square
    are of this rank's shard, padding included, and are changed in place, too. The summed gradient
    is clipped: if its norm is above `max_norm`, it is scaled by max_norm / norm. Returns the norm
    before.
    """
    raise NotImplementedError
