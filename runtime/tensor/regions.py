"""Regions of tensor parallelism: how activations enter and leave layers that ranks share.

These are Megatron-LM's mappings. Entering and leaving are conjugate: the backward pass of one is
the other. Activations enter a `TensorParallelRegion` as they are (copy) and leave it as a sum over
the ranks (all-reduce). Outside a `SequenceParallelRegion` activations are sharded along the
sequence (axis 1): they are gathered on entering and reduce-scattered on leaving.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import ringlet.runtime.device_collectives as device_collectives
from ringlet.comm import Group
from ringlet.nn import Operation
from ringlet.nn.autograd.tensor import Array, Gradient
from ringlet.nn.backend import xp
from ringlet.runtime.device_collectives import Ready, Then


class ParallelRegion(ABC):
    """One way of entering and leaving the layers that the ranks of `group` share.

    Asynchronous calls, in backward, return a Pending. `collectives` may be those of a codec.
    """

    def __init__(self, group: Group, collectives: Any = device_collectives) -> None:
        self.group, self._collectives = group, collectives

    @abstractmethod
    def enter(self, x: Array, async_op: bool = False) -> Any:
        """Return what every rank computes with."""

    @abstractmethod
    def leave(self, part: Array, async_op: bool = False) -> Any:
        """Return the sum of the ranks' parts, or this rank's shard of it; may overwrite `part`."""

    def _run(self, name: str, x: Array, async_op: bool) -> Any:
        label = "activations' gradients" if async_op else "activations"
        return getattr(self._collectives, name)(self.group, x, async_op=async_op, label=label)


class TensorParallelRegion(ParallelRegion):
    """Outside, every rank has the same activations."""

    def enter(self, x: Array, async_op: bool = False) -> Any:
        return Ready(x) if async_op else x

    def leave(self, part: Array, async_op: bool = False) -> Any:
        return self._run("all_reduce", part, async_op)


class SequenceParallelRegion(ParallelRegion):
    """Outside, every rank has its shard of the sequence: (B, T / n, C); inside (B, T, C).

    Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022).
    """

    def enter(self, x: Array, async_op: bool = False) -> Any:
        gathered = self._run("all_gather", x, async_op)
        return Then(gathered, _join) if async_op else _join(gathered)

    def leave(self, part: Array, async_op: bool = False) -> Any:
        shard = self._run("reduce_scatter", _split(part, self.group.size), async_op)
        return Then(shard, itemgetter(0)) if async_op else shard[0]


class RegionOperation(Operation):
    """An operation at the border of a region."""

    def __init__(self, region: ParallelRegion) -> None:
        self.region = region


class EnterRegion(RegionOperation):
    """Activations enter a region; their gradients leave it."""

    def forward(self, x: Array) -> Array:
        return self.region.enter(x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (self.region.leave(xp.array(grad), async_op=True).wait(),)


class LeaveRegion(RegionOperation):
    """Activations leave a region; their gradients enter it."""

    def forward(self, x: Array) -> Array:
        return self.region.leave(x)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (self.region.enter(grad, async_op=True).wait(),)


def _split(x: Array, count: int) -> Array:
    """(B, T, C) -> (n, B, T / n, C)."""
    batch, length, width = x.shape
    parts = x.reshape(batch, count, length // count, width).transpose(1, 0, 2, 3)
    return xp.ascontiguousarray(parts)


def _join(parts: Array) -> Array:
    """(n, B, T / n, C) -> (B, T, C)."""
    count, batch, length, width = parts.shape
    return parts.transpose(1, 0, 2, 3).reshape(batch, count * length, width)
