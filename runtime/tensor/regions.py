"""How activations travel between the ranks of a group: plain or encoded, whole or in parts.

`enter` and `leave` a region that is cut over the ranks are conjugate: the backward of one is the
other. On a `Replicated` wire entering is nothing and leaving is an all-reduce. On a `Sequential`
wire the activations outside are cut along the sequence (axis 1): entering is an all-gather,
leaving a reduce-scatter.
"""

from collections.abc import Callable
from typing import Any, Protocol

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import xp
from ringlet.runtime.staging import all_gather, all_reduce, reduce_scatter

FORWARD, BACKWARD = "activations", "activations' gradients"


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


class Carrier(Protocol):
    """Collectives of activations; arrays that are summed may be overwritten.

    With `fly` they are in flight while the caller computes.
    """

    group: Group

    def all_reduce(self, x: Array, label: str, fly: bool = False) -> Pending:
        """The sum over the ranks."""

    def all_gather(self, x: Array, label: str, fly: bool = False) -> Pending:
        """(n, *shape): every rank's."""

    def reduce_scatter(self, x: Array, label: str, fly: bool = False) -> Pending:
        """(n, *shape) -> (1, *shape): the sum of what the ranks have for this rank."""


class PlainCarrier:
    """Activations as they are."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def all_reduce(self, x: Array, label: str, fly: bool = False) -> Pending:
        """See Carrier."""
        return _pending(all_reduce(self.group, x, async_op=fly, label=label), fly)

    def all_gather(self, x: Array, label: str, fly: bool = False) -> Pending:
        """See Carrier."""
        return _pending(all_gather(self.group, x, async_op=fly, label=label), fly)

    def reduce_scatter(self, x: Array, label: str, fly: bool = False) -> Pending:
        """See Carrier."""
        return _pending(reduce_scatter(self.group, x, async_op=fly, label=label), fly)


def _pending(result: Any, fly: bool) -> Pending:
    work: Pending = result if fly else Ready(result)
    return work


class Wire(Protocol):
    """One way of entering and leaving. What leaves may be overwritten."""

    group: Group

    def enter(self, x: Array) -> Array:
        """What every rank computes with."""

    def leave(self, part: Array) -> Array:
        """The sum of the ranks' parts, or this rank's share of it."""

    def start_enter(self, x: Array) -> Pending:
        """The same in backward, in flight."""

    def start_leave(self, part: Array) -> Pending:
        """The same in backward, in flight."""


class Replicated:
    """Outside, every rank has the same activations."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier, self.group = carrier, carrier.group

    def enter(self, x: Array) -> Array:
        """See Wire."""
        return x

    def leave(self, part: Array) -> Array:
        """See Wire."""
        return self._carrier.all_reduce(part, FORWARD).wait()

    def start_enter(self, x: Array) -> Pending:
        """See Wire."""
        return Ready(x)

    def start_leave(self, part: Array) -> Pending:
        """See Wire."""
        return self._carrier.all_reduce(part, BACKWARD, fly=True)


class Sequential:
    """Outside, every rank has its part of the sequence: (B, T / n, C); inside (B, T, C)."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier, self.group = carrier, carrier.group

    def enter(self, x: Array) -> Array:
        """See Wire."""
        return _join(self._carrier.all_gather(x, FORWARD).wait())

    def leave(self, part: Array) -> Array:
        """See Wire."""
        parts = _cut(part, self.group.size)
        return self._carrier.reduce_scatter(parts, FORWARD).wait()[0]

    def start_enter(self, x: Array) -> Pending:
        """See Wire."""
        return Then(self._carrier.all_gather(x, BACKWARD, fly=True), _join)

    def start_leave(self, part: Array) -> Pending:
        """See Wire."""
        parts = _cut(part, self.group.size)
        pending = self._carrier.reduce_scatter(parts, BACKWARD, fly=True)
        return Then(pending, lambda share: share[0])


def _cut(x: Array, count: int) -> Array:
    """(B, T, C) -> (n, B, T / n, C)."""
    batch, length, width = x.shape
    parts = x.reshape(batch, count, length // count, width).transpose(1, 0, 2, 3)
    return xp.ascontiguousarray(parts)


def _join(parts: Array) -> Array:
    """(n, B, T / n, C) -> (B, T, C)."""
    count, batch, length, width = parts.shape
    return parts.transpose(1, 0, 2, 3).reshape(batch, count * length, width)
