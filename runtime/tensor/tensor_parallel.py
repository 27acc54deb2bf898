"""Tensor parallelism: every matrix of a layer is cut over the ranks of a group.

Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model
parallelism" (2019): the first linear layer of a pair is cut by columns (output features), the
second by rows (input features), so that a pair needs one all-reduce forward and one backward.
Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022), 4.2.2:
with sequence parallelism the activations between the pairs are cut along the sequence; the
all-reduces become reduce-scatters and all-gathers of the same volume.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn import Module, Operation, Parameter, Tensor
from ringlet.nn import functional as F
from ringlet.nn.autograd.deferred import Deferred, Gradient, Product
from ringlet.nn.autograd.operations.dropout import keep_mask
from ringlet.nn.autograd.operations.products import column_sums
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import xp
from ringlet.runtime.tensor.regions import Pending, Wire


class Arriving(Deferred):
    """A gradient whose sum over the ranks is still on its way; meanwhile the weight's is made."""

    def __init__(self, transfer: Pending, shape: tuple[int, ...]) -> None:
        self._transfer, self._shape = transfer, shape

    def value(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Wait for it."""
        return self._transfer.wait().reshape(self._shape)

    def into(self, out: Array, add: bool) -> None:
        """See Deferred."""
        arrived = self._transfer.wait().reshape(self._shape)
        xp.copyto(out, out + arrived if add else arrived)


class ColumnProduct(Operation):
    """x @ weight.T + bias, with this rank's rows of the weight (output features).

    Forward: x is the same on all ranks, or gathered along the sequence. Backward: the gradient of
    x is a sum over the ranks, on its way while the weight's gradient is computed.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.x, self.weight = x, weight
        x = self.wire.enter(self.x)  # (B, T, in)
        result = xp.matmul(x.reshape(-1, x.shape[-1]), self.weight.T)  # (N, out / n)
        if bias is not None:
            result += bias
        return result.reshape(*x.shape[:-1], -1)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        flat = grad.reshape(-1, grad.shape[-1])  # (N, out / n)
        # What was gathered is not kept but gathered again, while the product below is made.
        gathering = self.wire.start_enter(self.x) if self.needs[1] else None
        to_x = None
        if self.needs[0]:
            part = xp.matmul(flat, self.weight).reshape(*grad.shape[:-1], -1)
            to_x = Arriving(self.wire.start_leave(part), self.x.shape)
        to_weight = None
        if gathering is not None:
            x = gathering.wait()
            to_weight = Product(flat.T, x.reshape(-1, x.shape[-1]))
        if len(self.needs) == 2:
            return to_x, to_weight
        return to_x, to_weight, column_sums(flat) if self.needs[2] else None


class RowProduct(Operation):
    """x @ weight.T + bias, with this rank's columns of the weight (input features).

    Forward: the ranks' products are summed, and with sequence parallelism scattered. Backward:
    the gradient is the same on all ranks, or gathered along the sequence.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.weight = weight
        self.shape = x.shape
        self.x = x.reshape(-1, x.shape[-1])  # (N, in / n)
        part = xp.matmul(self.x, self.weight.T)
        result = self.wire.leave(part.reshape(*x.shape[:-1], -1))
        if bias is not None:
            result += bias
        return result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        own = grad.reshape(-1, grad.shape[-1])
        flat = self.wire.enter(grad).reshape(-1, grad.shape[-1])  # (N, out)
        to_x = xp.matmul(flat, self.weight).reshape(self.shape) if self.needs[0] else None
        to_weight = Product(flat.T, self.x) if self.needs[1] else None
        if len(self.needs) == 2:
            return to_x, to_weight
        return to_x, to_weight, column_sums(own) if self.needs[2] else None


class ColumnLinear(Module):
    """A Linear of which this rank has some output features: (..., in) -> (..., out / n)."""

    def __init__(self, wire: Wire, weight: Parameter, bias: Parameter | None) -> None:
        self.wire, self.weight, self.bias = wire, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        own = () if self.bias is None else (self.bias,)
        return ColumnProduct(self.wire)(x, self.weight, *own)

    def describe(self) -> str:
        """See Module."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]} of {self.wire.group.size} parts"


class RowLinear(Module):
    """A Linear of which this rank has some input features: (..., in / n) -> (..., out)."""

    def __init__(self, wire: Wire, weight: Parameter, bias: Parameter | None) -> None:
        self.wire, self.weight, self.bias = wire, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        own = () if self.bias is None else (self.bias,)
        return RowProduct(self.wire)(x, self.weight, *own)

    def describe(self) -> str:
        """See Module."""
        return f"{self.weight.shape[1]} of {self.wire.group.size} parts, {self.weight.shape[0]}"


class SequenceEmbedding(Module):
    """A replicated Embedding of positions, each rank looking up its part of the sequence."""

    def __init__(self, wire: Wire, weight: Parameter) -> None:
        self.wire, self.weight = wire, weight

    def forward(self, positions: Array) -> Tensor:
        """positions (..., T) -> (..., T / n, C)."""
        length = positions.shape[-1] // self.wire.group.size
        start = self.wire.group.rank * length
        return F.embedding(positions[..., start : start + length], self.weight)


class ColumnDropout(Module):
    """Dropout of this rank's part of a layer's features, the last axis: a part of the mask that
    one process would draw (as long as the features divide)."""

    def __init__(self, p: float, index: int, count: int) -> None:
        self.p, self._index, self._count = p, index, count

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C / n) -> the same."""
        if not (self.training and self.p):
            return x
        width = x.shape[-1]
        whole = (*x.shape[:-1], width * self._count)
        mask = keep_mask(whole, x.dtype, self.p, self.path, (0, 1))
        return x * Tensor(mask[..., self._index * width : (self._index + 1) * width])
