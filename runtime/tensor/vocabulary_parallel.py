"""Embeddings and losses sharded along the vocabulary over the ranks of a group.

Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model
parallelism" (2019), section 3: each rank has some rows of the embedding and some columns of the
logits, which are never gathered. Per token only a maximum, a sum and the target's logit travel.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.comm import Group
from ringlet.nn import Module, Operation, Parameter, Tensor
from ringlet.nn.autograd.conversion import host_array
from ringlet.nn.autograd.deferred import Gradient
from ringlet.nn.autograd.operations.embedding import RowSums
from ringlet.nn.autograd.operations.linear_cross_entropy import LinearCrossEntropy
from ringlet.nn.autograd.operations.loss import CrossEntropy, Reduction, checked
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import asarray, xp
from ringlet.nn.layers.losses import LogitsLoss
from ringlet.runtime.device_collectives import all_reduce
from ringlet.runtime.tensor.regions import ParallelRegion
from ringlet.runtime.tensor.tensor_parallel import ColumnParallelLinear, GradientInFlight


class VocabularyLookup(Operation):
    """table[ids], where this rank has the rows from `first` on; other ids give zeros."""

    def __init__(self, region: ParallelRegion, ids: Array, first: int) -> None:
        self.region, self.ids, self.first = region, ids, first

    def forward(self, table: Array) -> Array:
        local = self.ids - self.first
        here = (local >= 0) & (local < len(table))
        self.rows = local[here]
        self.places = tuple(asarray(axis) for axis in np.nonzero(here))
        part = xp.zeros((*self.ids.shape, table.shape[1]), table.dtype)
        part[self.places] = table[asarray(self.rows)]
        return self.region.leave(part)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (RowSums(self.rows, self.region.enter(grad)[self.places]),)


class VocabularyParallelEmbedding(Module):
    """An Embedding with this rank's rows: ids (...) -> (..., C)."""

    def __init__(self, region: ParallelRegion, weight: Parameter, first: int, rows: int) -> None:
        self.region, self.weight, self.first, self.rows = region, weight, first, rows

    def forward(self, ids: Tensor | Array) -> Tensor:
        """Raises IndexError naming an id that is out of range."""
        numbers = host_array(ids)
        wrong = numbers[(numbers < 0) | (numbers >= self.rows)]
        if wrong.size:
            raise IndexError(f"id {wrong[0]} is out of range for a vocabulary of {self.rows}")
        return VocabularyLookup(self.region, numbers, self.first)(self.weight)

    def extra_repr(self) -> str:
        return f"{self.first} to {self.first + len(self.weight)} of {self.rows}"


class ShardedTargets:
    """Targets (see nn.autograd.operations.loss) of logits that are sharded over the ranks.

    This rank has the logits of the ids from `first` on; `columns` of them count, the rest is
    padding. A target of -1 is on no rank. Each block of rows takes two all-reduces.
    """

    def __init__(self, group: Group, targets: Array, first: int, columns: int) -> None:
        self.group, self.columns = group, columns
        self._local = targets - first

    def losses(self, logits: Array, rows: slice, out: Array) -> Array:
        logits[:, self.columns :] = -np.inf
        largest = logits.max(axis=1)
        all_reduce(self.group, largest, "max", label="largest logits")
        xp.subtract(logits, largest[:, None], out=out)
        here, chosen = self._chosen(rows)
        sums = xp.zeros((2, len(out)), out.dtype)  # of exponentials, and of the target's logit
        sums[1, here] = out[here, chosen]
        xp.exp(out, out=out)
        xp.sum(out, axis=1, out=sums[0])
        all_reduce(self.group, sums, label="sums of exponentials")
        out /= sums[0][:, None]
        return xp.log(sums[0]) - sums[1]

    def differentiate(self, p: Array, rows: slice) -> None:
        here, chosen = self._chosen(rows)
        p[here, chosen] -= 1

    def _chosen(self, rows: slice) -> tuple[Array, Array]:
        """The rows whose target is on this rank, and its column."""
        local = self._local[rows]
        here = np.flatnonzero((local >= 0) & (local < self.columns))
        return asarray(here), asarray(local[here])


class VocabularyParallelLinearCrossEntropy(LinearCrossEntropy):
    """LinearCrossEntropy with this rank's rows of the weight.

    The gradient of x is summed over the ranks while the weight's is computed.
    """

    def __init__(self, region: ParallelRegion, *options: Any) -> None:
        super().__init__(*options)
        self.region = region

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.outside = x.shape
        return super().forward(self.region.enter(x), weight, bias)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        part: Any
        part, *own = super().backward(grad)
        if part is not None:
            part = GradientInFlight(self.region.leave(part, async_op=True), self.outside)
        return part, *own


class VocabularyParallelLoss(LogitsLoss):
    """The cross-entropy of logits that are sharded along the vocabulary."""

    layer_kind = ColumnParallelLinear

    def __init__(self, group: Group, first: int, columns: int, vocabulary: int) -> None:
        self.group, self.first, self.columns = group, first, columns
        self.vocabulary = vocabulary

    def forward(
        self,
        logits: Tensor,
        targets: Tensor | Array,
        reduction: Reduction = "mean",
        layer: ColumnParallelLinear | None = None,
    ) -> Tensor:
        """The same number on all ranks of the group; raises IndexError for a target that is no id.

        Targets of -100 do not count.
        """
        ids, _ = checked(targets, None, -100, targets.shape, self.vocabulary)
        counted = ids != -100
        divided = max(int(counted.sum()), 1) if reduction == "mean" else 1
        if layer is None:
            weights = asarray(np.where(counted, 1 / divided, 0).astype(logits.dtype))
            local = self._targets(np.where(counted, ids, -1))
            return CrossEntropy(local, weights, "sum")(logits.reshape(-1, logits.shape[-1]))
        rows = None if counted.all() else asarray(np.flatnonzero(counted))
        local = self._targets(ids[counted])
        operation = VocabularyParallelLinearCrossEntropy(layer.region, local, rows, "sum", divided)
        own = () if layer.bias is None else (layer.bias,)
        return operation(logits, layer.weight, *own)

    def _targets(self, targets: Array) -> ShardedTargets:
        return ShardedTargets(self.group, targets, self.first, self.columns)
