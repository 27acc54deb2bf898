"""Lesson 11: causal attention block by block, and then round a ring of ranks.

One head: queries q (Q, D), keys k (K, D), values v (K, E). A score is q . k / sqrt(D), and a query
sees the keys at its own position and before. `group` is what `comm.init()` gives: `group.rank`,
`group.size`, `group.send(x, dst)`, and `group.recv(src)`, which returns an array.

What a function is given stays as it is. Write them in this order;
`ringlet lesson check 11` says what goes wrong first.
"""

import numpy as np

from ringlet.comm import Group
from ringlet.comm.arrays import Array


def visible(queries: Array, keys: Array) -> Array:
    """The positions of queries (Q,) and of keys (K,) -> a bool array (Q, K): which query sees
    which key."""
    raise NotImplementedError


def attend(
    out: Array, shift: Array, total: Array, q: Array, k: Array, v: Array, mask: Array
) -> tuple[Array, Array, Array]:
    """Let the queries see one more block of keys; returns the new (out, shift, total).

    For each query over all keys seen so far, with s their scores:

        shift (Q,)    a number about as large as the largest s; -inf before any key was seen
        total (Q,)    the sum of exp(s - shift)
        out (Q, E)    the sum of exp(s - shift) * v

    `mask` (Q, K) says which of the block's keys a query sees: for some queries perhaps none. In the
    end attention is out / total. Scores may be large: no exponential may overflow.
    """
    raise NotImplementedError


def zigzag(length: int, size: int, rank: int) -> Array:
    """The positions (length / size,), in ascending order, that this rank has of a sequence.

    Every position is on one rank, and all ranks compute the same number of visible pairs of a
    query and a key. `length` is a multiple of 2 * size.
    """
    raise NotImplementedError


def ring_attention(group: Group, q: Array, k: Array, v: Array, positions: Array) -> Array:
    """This rank's queries, keys and values (T / n, ...) -> their attention (T / n, E), causal over
    the whole sequence.

    positions (n, T / n): those that each rank has. Queries stay; keys and values go round: each
    rank sends on what it has just used, n - 1 times. Never all_gather: no rank ever has more than
    its own keys and one other rank's.
    """
    raise NotImplementedError
