"""Tables and losses that are cut over the ranks of a group along the vocabulary.

Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model
parallelism" (2019), section 3: each rank has some rows of the embedding and some columns of the
logits, which are never gathered. Of each token only a maximum, a sum and the target's logit travel.
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
from ringlet.nn.autograd.operations.loss import CrossEntropy, Reduction
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import asarray, xp
from ringlet.nn.layers.losses import LogitsLoss
from ringlet.runtime.staging import all_reduce
from ringlet.runtime.tensor.regions import Wire
from ringlet.runtime.tensor.tensor_parallel import Arriving, ColumnLinear


class VocabularyLookup(Operation):
    """table[ids], with rows `first` onwards of the table here; other ids give zeros."""

    def __init__(self, wire: Wire, ids: Array, first: int) -> None:
        self.wire, self.ids, self.first = wire, ids, first

    def forward(self, table: Array) -> Array:
        local = self.ids - self.first
        here = (local >= 0) & (local < len(table))
        self.rows = local[here]
        self.places = tuple(asarray(axis) for axis in np.nonzero(here))
        part = xp.zeros((*self.ids.shape, table.shape[1]), table.dtype)
        part[self.places] = table[asarray(self.rows)]
        return self.wire.leave(part)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (RowSums(self.rows, self.wire.enter(grad)[self.places]),)


class VocabularyEmbedding(Module):
    """An Embedding of which this rank has some rows: ids (...) -> (..., C)."""

    def __init__(self, wire: Wire, weight: Parameter, first: int, rows: int) -> None:
        self.wire, self.weight, self.first, self.rows = wire, weight, first, rows

    def forward(self, ids: Tensor | Array) -> Tensor:
        """Raises IndexError naming an id that is out of range."""
        numbers = host_array(ids)
        wrong = numbers[(numbers < 0) | (numbers >= self.rows)]
        if wrong.size:
            raise IndexError(f"id {wrong[0]} is out of range for a vocabulary of {self.rows}")
        return VocabularyLookup(self.wire, numbers, self.first)(self.weight)

    def describe(self) -> str:
        """See Module."""
        return f"{self.first} to {self.first + len(self.weight)} of {self.rows}"


class PartialGoal:
    """A Goal (see nn.operations.loss) of rows of which each rank has some logits.

    The ids `first` onwards are here; `columns` of the logits count, the rest is padding. A target
    of -1 is nowhere. Each block of rows takes two all-reduces.
    """

    def __init__(self, group: Group, targets: Array, first: int, columns: int) -> None:
        self.group, self.columns = group, columns
        self._local = targets - first

    def losses(self, logits: Array, rows: slice, out: Array) -> Array:
        """See Goal."""
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
        """See Goal."""
        here, chosen = self._chosen(rows)
        p[here, chosen] -= 1

    def _chosen(self, rows: slice) -> tuple[Array, Array]:
        """Those of the rows whose target is here, and its column."""
        local = self._local[rows]
        here = np.flatnonzero((local >= 0) & (local < self.columns))
        return asarray(here), asarray(local[here])


class VocabularyLinearCrossEntropy(LinearCrossEntropy):
    """LinearCrossEntropy with this rank's rows of the weight.

    The gradient of x is a sum over the ranks, on its way while the weight's is computed.
    """

    def __init__(self, wire: Wire, *goal: Any) -> None:
        super().__init__(*goal)
        self.wire = wire

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.outside = x.shape
        return super().forward(self.wire.enter(x), weight, bias)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        part: Any
        part, *own = super().backward(grad)
        to_x = None if part is None else Arriving(self.wire.start_leave(part), self.outside)
        return to_x, *own


class VocabularyLoss(LogitsLoss):
    """The cross-entropy of logits that are cut along the vocabulary."""

    layer_kind = ColumnLinear

    def __init__(self, group: Group, first: int, columns: int, vocabulary: int) -> None:
        self.group, self.first, self.columns = group, first, columns
        self.vocabulary = vocabulary

    def forward(
        self,
        logits: Tensor,
        targets: Tensor | Array,
        reduction: Reduction = "mean",
        layer: ColumnLinear | None = None,
    ) -> Tensor:
        """The same number on all ranks of the group; raises IndexError for a target that is no id.

        Targets of -100 do not count.
        """
        ids = host_array(targets).reshape(-1)
        wrong = ids[(ids != -100) & ((ids < 0) | (ids >= self.vocabulary))]
        if wrong.size:
            raise IndexError(f"target {wrong[0]} is no id of a vocabulary of {self.vocabulary}")
        counted = ids != -100
        divided = max(int(counted.sum()), 1) if reduction == "mean" else 1
        if layer is None:
            weights = asarray(np.where(counted, 1 / divided, 0).astype(logits.dtype))
            goal = self._goal(np.where(counted, ids, -1))
            return CrossEntropy(goal, weights, "sum")(logits.reshape(-1, logits.shape[-1]))
        rows = None if counted.all() else asarray(np.flatnonzero(counted))
        goal = self._goal(ids[counted])
        operation = VocabularyLinearCrossEntropy(layer.wire, goal, rows, "sum", divided)
        own = () if layer.bias is None else (layer.bias,)
        return operation(logits, layer.weight, *own)

    def _goal(self, targets: Array) -> PartialGoal:
        return PartialGoal(self.group, targets, self.first, self.columns)
