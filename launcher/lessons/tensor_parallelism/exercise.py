"""Lesson 9: a column-parallel layer and a row-parallel one, with their backward passes.

A linear layer is y = x @ weight.T + bias, with a weight of shape (out, in), as in PyTorch. `group`
is what `comm.init()` gives: `group.rank`, `group.size`, and collectives as `group.all_reduce(x)`,
which sums the ranks' arrays in place and returns x. All numbers of features divide evenly.

What a function is given stays as it is. Write them in this order;
`ringlet lesson check 9` says what goes wrong first.
"""

import numpy as np

from ringlet.comm import Group
from ringlet.comm.arrays import Array


def column_shard(weight: Array, rank: int, size: int) -> Array:
    """This rank's output features: a weight (out, in) -> (out / size, in), in the order of ranks.

    ("Column" is the paper's word: it writes y = x A, and output features are A's columns.)
    """
    raise NotImplementedError


def row_shard(weight: Array, rank: int, size: int) -> Array:
    """This rank's input features: a weight (out, in) -> (out, in / size), in the order of ranks."""
    raise NotImplementedError


def column_forward(group: Group, x: Array, weight: Array) -> Array:
    """x (N, in), the same on every rank; weight (out / n, in), this rank's.

    Returns this rank's output features (N, out / n). The next layer wants no more than these.
    """
    raise NotImplementedError


def row_forward(group: Group, x: Array, weight: Array, bias: Array) -> Array:
    """x (N, in / n) and weight (out, in / n), this rank's; bias (out,), the same on every rank.

    Returns the whole layer's result (N, out), the same on every rank.
    """
    raise NotImplementedError


def row_backward(group: Group, x: Array, weight: Array, grad: Array) -> tuple[Array, Array, Array]:
    """The gradients of row_forward's arguments; grad (N, out), the same on every rank, is that of
    its result.

    Returns those of x (N, in / n), of this rank's weight (out, in / n), and of the bias (out,).
    """
    raise NotImplementedError


def column_backward(group: Group, x: Array, weight: Array, grad: Array) -> tuple[Array, Array]:
    """The gradients of column_forward's arguments; grad (N, out / n) is that of this rank's result.

    Returns those of x (N, in), the same on every rank, and of this rank's weight (out / n, in).
    """
    raise NotImplementedError
