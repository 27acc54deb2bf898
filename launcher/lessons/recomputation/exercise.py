"""Lesson 10: what to compute again, what to send, and what to send first.

`group` is what `comm.init()` gives: `group.rank`, `group.size`, and `group.all_reduce(x)`, which
sums the ranks' arrays in place and returns x.

What a function is given stays as it is. Write them in this order;
`ringlet lesson check 10` says what goes wrong first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ringlet.comm import Group
from ringlet.comm.arrays import Array


class Block(NamedTuple):
    """What is known of a block of a model."""

    kept: int
    """Bytes of all that its backward needs, its input among them."""

    input: int
    """Bytes of its input alone."""

    seconds: int
    """Of its forward."""


def peak(blocks: Sequence[Block], again: Sequence[bool]) -> int:
    """The most memory that activations take in a step, in bytes.

    `again[i]` says whether block i is computed again in backward: until then it keeps its input
    only. Backward goes from the last block to the first. At its turn a block has all that it needs;
    the blocks before it still hold what they keep, and those after it nothing any more.
    """
    raise NotImplementedError


def plan(blocks: Sequence[Block], limit: int) -> Sequence[bool] | None:
    """Which blocks to compute again, a list of bools, so that the peak is at most `limit` bytes and
    the seconds of computing again are the fewest; None if nothing fits. There are at most 8 blocks.
    """
    raise NotImplementedError


def power_sgd(group: Group, grad: Array, residual: Array, q: Array) -> tuple[Array, Array, Array]:
    """One step of PowerSGD: returns (p, q, residual), all new; p @ q.T is about the ranks' sum.

    grad (rows, columns) is this rank's gradient, residual what this rank has lost so far, of the
    same shape; q (columns, r) that of the step before, the same on every rank. With M the sum over
    the ranks of grad + residual:

        p = M q, its columns made orthonormal (np.linalg.qr)        (rows, r)
        q = M^T p                                                   (columns, r)

    No rank ever sends its whole gradient: M q and M^T p are sums, too. The new residual is what is
    lost of this rank's own grad + residual: without its part of p @ q.T.
    """
    raise NotImplementedError


def next_bucket(waiting: Sequence[int]) -> int:
    """Which bucket of gradients leaves next, now that the link is free.

    Bucket i holds the gradients of layer i. `waiting` are the buckets whose gradients are final, in
    the order in which backward made them so: the last layer's first. The next step's forward of
    layer 0 begins when bucket 0 has arrived, that of layer 1 needs bucket 1, and so on.
    """
    raise NotImplementedError
