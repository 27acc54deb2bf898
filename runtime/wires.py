"""How activations enter and leave a region that is cut over the ranks of a group.

`enter` and `leave` are conjugate: the backward of one is the other. On a `Replicated` wire
entering is nothing and leaving is an all-reduce. On a `Sequential` wire the activations outside
are cut along the sequence (axis 1): entering is an all-gather, leaving a reduce-scatter.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ringlet.comm import Group
from ringlet.nn.tensor import Array


class Pending(Protocol):
    """An array on its way."""

    def wait(self) -> Any:
        """The array, once it is here."""


class Ready:
    """An array that is here already."""

    def __init__(self, value: Array) -> None:
        self._value = value

    def wait(self) -> Array:
        """See Pending."""
        return self._value


class Then:
    """An array that is finished by a function once it is here."""

    def __init__(self, pending: Pending, finish: Callable[[Array], Array]) -> None:
        self._pending, self._finish = pending, finish

    def wait(self) -> Array:
        """See Pending."""
        return self._finish(self._pending.wait())


class Wire(Protocol):
    """One way of entering and leaving. What leaves may be overwritten."""

    group: Group

    def enter(self, x: Array) -> Array:
        """What every rank computes with."""

    def leave(self, part: Array) -> Array:
        """The sum of the ranks' parts, or this rank's share of it."""

    def start_enter(self, x: Array) -> Pending:
        """The same, in flight."""

    def start_leave(self, part: Array) -> Pending:
        """The same, in flight."""


class Replicated:
    """Outside, every rank has the same activations."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def enter(self, x: Array) -> Array:
        """See Wire."""
        return x

    def leave(self, part: Array) -> Array:
        """See Wire."""
        total: Array = self.group.all_reduce(part, label="activations")
        return total

    def start_enter(self, x: Array) -> Pending:
        """See Wire."""
        return Ready(x)

    def start_leave(self, part: Array) -> Pending:
        """See Wire."""
        work: Pending = self.group.all_reduce(part, async_op=True, label="activations' gradients")
        return work


class Sequential:
    """Outside, every rank has its part of the sequence: (B, T / n, C); inside (B, T, C)."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def enter(self, x: Array) -> Array:
        """See Wire."""
        return _join(self.group.all_gather(x, label="activations"))

    def leave(self, part: Array) -> Array:
        """See Wire."""
        parts = _cut(part, self.group.size)
        mine: Array = self.group.reduce_scatter(parts, label="activations")[0]
        return mine

    def start_enter(self, x: Array) -> Pending:
        """See Wire."""
        return Then(self.group.all_gather(x, async_op=True, label="activations"), _join)

    def start_leave(self, part: Array) -> Pending:
        """See Wire."""
        parts = _cut(part, self.group.size)
        work = self.group.reduce_scatter(parts, async_op=True, label="activations' gradients")
        return Then(work, lambda share: share[0])


def _cut(x: Array, count: int) -> Array:
    """(B, T, C) -> (n, B, T / n, C)."""
    batch, length, width = x.shape
    parts = x.reshape(batch, count, length // count, width).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(parts)


def _join(parts: Array) -> Array:
    """(n, B, T / n, C) -> (B, T, C)."""
    count, batch, length, width = parts.shape
    return parts.transpose(1, 0, 2, 3).reshape(batch, count * length, width)
