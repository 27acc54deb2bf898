"""Expert parallelism: every rank has some of a layer's experts, and positions travel to them.

Lepikhin et al., "GShard: scaling giant models with conditional computation and automatic sharding"
(2020), section 3: an all-to-all takes each position's row to the ranks of its experts, and a
second one brings the results back. Fedus, Zoph and Shazeer, "Switch transformers" (2021), section
5, for its combination with data parallelism (the ranks along `ep` take different samples) and with
experts whose matrices are sharded over tensor-parallel ranks, as Megatron's are.

So that results do not depend on the mesh, capacity and balance are counted for whole samples (see
nn.Experts): ranks with different parts of a sequence exchange how often each expert was chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ringlet.comm import Group
from ringlet.nn import Experts, Operation, Tensor
from ringlet.nn.autograd.deferred import Gradient
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import asarray, xp
from ringlet.runtime.device_collectives import all_to_all
from ringlet.runtime.mesh import Mesh
from ringlet.runtime.tensor.regions import EnterRegion, LeaveRegion, ParallelRegion


@dataclass(frozen=True)
class Dispatcher:
    """How rows (R, C), sorted by expert, get to the ranks that have the experts, and back.

    Every rank sends every expert the same number of slots, as many as the largest number of rows
    that any rank has for any expert; unfilled slots are padding. On n ranks, with E experts and S
    slots, each rank sends (n - 1) / n * E S C elements in an all-to-all, and (n - 1) E counts.

    `sent` (R,) is the slot of each row of this rank; `received` are the slots, as they arrive, of
    the rows for this rank's experts, sorted by expert, then by rank; `counts` are each one's rows.
    """

    group: Group
    slots: int
    sent: Array
    received: Array
    counts: Array

    @classmethod
    def of(cls, group: Group, counts: Array) -> "Dispatcher":
        """From the number of rows for each expert (a collective)."""
        every = group.all_gather(counts, label="rows for each expert")  # (n, E)
        slots = int(every.max(initial=0))
        local = len(counts) // group.size
        mine = every[:, group.rank * local :][:, :local].T  # (E / n, n)
        places = np.arange(every.size // group.size * slots).reshape(group.size, local, slots)
        filled = np.arange(slots) < mine[..., None]  # (E / n, n, S)
        experts = np.repeat(np.arange(len(counts)), counts)
        starts = np.cumsum(counts) - counts
        sent = experts * slots + np.arange(len(experts)) - starts[experts]
        return cls(group, slots, sent, places.transpose(1, 0, 2)[filled], mine.sum(axis=1))

    def dispatch(self, rows: Array, label: str) -> Array:
        """(R, C) -> (R', C): to the experts."""
        return self._travel(rows, self.sent, self.received, label)

    def combine(self, rows: Array, label: str) -> Array:
        """(R', C) -> (R, C): back from the experts."""
        return self._travel(rows, self.received, self.sent, label)

    def _travel(self, rows: Array, leave: Array, arrive: Array, label: str) -> Array:
        every = self.group.size * len(self.counts) * self.slots
        buffer = xp.zeros((every, rows.shape[1]), rows.dtype)
        buffer[asarray(leave)] = rows
        return all_to_all(self.group, buffer, label=label)[asarray(arrive)]


class DispatchRows(Operation):
    """Rows go to their experts; their gradients come back."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher

    def forward(self, x: Array) -> Array:
        return self.dispatcher.dispatch(x, "rows to experts")

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (self.dispatcher.combine(grad, "gradients from experts"),)


class CombineRows(Operation):
    """The experts' results come back; their gradients go to the experts."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher

    def forward(self, x: Array) -> Array:
        return self.dispatcher.combine(x, "results of experts")

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (self.dispatcher.dispatch(grad, "gradients to experts"),)


class ShardedExperts(Experts):
    """Experts of which this rank has some (`ep`), or a shard of each (`tp`), or both.

    It is given this rank's parameters. Inside the tensor-parallel region every result and every
    gradient is this rank's part of a sum: the experts' results, their inputs' gradients, and those
    of the gates, which follow from partial results.
    """

    def __init__(self, experts: Experts, mesh: Mesh, region: ParallelRegion) -> None:
        vars(self).update(vars(experts))
        self._region = region if mesh.size("tp") > 1 else None
        self._expert_ranks, self._context = mesh.group("ep"), mesh.group("cp")
        self.share = 1 / mesh.size("tp")
        self.c_proj.adds_bias = mesh.index("tp") == 0

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        """Like Experts; with sequence parallelism (B, T / n, ...) of each."""
        if self._region is None:
            return super().forward(x, logits)
        region = self._region
        inside = super().forward(EnterRegion(region)(x), EnterRegion(region)(logits))
        return LeaveRegion(region)(inside)

    def compute(self, rows: Tensor, counts: Array) -> Tensor:
        """Like Experts, wherever they are."""
        if self._expert_ranks.size == 1:
            return super().compute(rows, counts)
        dispatcher = Dispatcher.of(self._expert_ranks, counts)
        there = DispatchRows(dispatcher)(rows)
        return CombineRows(dispatcher)(super().compute(there, dispatcher.counts))

    def count(self, chosen: Array) -> tuple[Array, Array]:
        """Like Experts, over the whole sequence; this rank has an early and a late chunk of it."""
        if self._context.size == 1:
            return super().count(chosen)
        batch, length, experts = chosen.shape
        chunks = chosen.reshape(batch, 2, length // 2, experts)  # see context_parallel.zigzag
        up_to_here = np.cumsum(chunks, axis=2)
        every = self._context.all_gather(chunks.sum(axis=2), label="choices of each chunk")
        ordered = np.concatenate([every[:, :, 0], every[::-1, :, 1]])  # (2n, B, experts)
        earlier = np.cumsum(ordered, axis=0) - ordered
        rank = self._context.rank
        before = up_to_here - chunks
        before += np.stack([earlier[rank], earlier[-1 - rank]], axis=1)[:, :, None]
        return before.reshape(chosen.shape), ordered.sum(axis=0)

    def extra_repr(self) -> str:
        here = len(self.c_fc.weight)
        return f"{here} of {super().extra_repr()}" if here < self.experts else super().extra_repr()
