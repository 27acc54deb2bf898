"""Tensor parallelism: every matrix of a layer is sharded over the ranks of a group.

Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model
parallelism" (2019): the first linear layer of a pair is sharded by columns (output features), the
second by rows (input features), so that a pair needs one all-reduce forward and one backward.
Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022), 4.2.2:
with sequence parallelism the activations between the pairs are sharded along the sequence; the
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
from ringlet.runtime.device_collectives import Pending
from ringlet.runtime.tensor.regions import ParallelRegion, RegionOperation


class GradientInFlight(Deferred):
    """A gradient that is still being summed over the ranks while the weight's is computed."""

    def __init__(self, work: Pending, shape: tuple[int, ...]) -> None:
        self._work, self._shape = work, shape

    def value(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return self._work.wait().reshape(self._shape)

    def into(self, out: Array, add: bool) -> None:
        arrived = self._work.wait().reshape(self._shape)
        xp.copyto(out, out + arrived if add else arrived)


class ColumnParallelProduct(RegionOperation):
    """x @ weight.T + bias, with this rank's rows of the weight (output features).

    Forward: x is the same on all ranks, or gathered along the sequence. Backward: the gradient of
    x is summed over the ranks while the weight's gradient is computed.
    """

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.x, self.weight = x, weight
        inside = self.region.enter(x)  # (B, T, in)
        result = xp.matmul(inside.reshape(-1, inside.shape[-1]), weight.T)  # (N, out / n)
        if bias is not None:
            result += bias
        return result.reshape(*inside.shape[:-1], -1)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        flat = grad.reshape(-1, grad.shape[-1])  # (N, out / n)
        # The gathered input is not kept but gathered again, during the product below.
        gathering = self.region.enter(self.x, async_op=True) if self.needs[1] else None
        to_x = to_weight = None
        if self.needs[0]:
            part = xp.matmul(flat, self.weight).reshape(*grad.shape[:-1], -1)
            to_x = GradientInFlight(self.region.leave(part, async_op=True), self.x.shape)
        if gathering is not None:
            x = gathering.wait()
            to_weight = Product(flat.T, x.reshape(-1, x.shape[-1]))
        return _gradients(self, to_x, to_weight, flat)


class RowParallelProduct(RegionOperation):
    """x @ weight.T + bias, with this rank's columns of the weight (input features).

    Forward: the ranks' products are summed, and scattered with sequence parallelism. Backward:
    the gradient is the same on all ranks, or gathered along the sequence.
    """

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.weight, self.shape = weight, x.shape
        self.x = x.reshape(-1, x.shape[-1])  # (N, in / n)
        part = xp.matmul(self.x, weight.T)
        result = self.region.leave(part.reshape(*x.shape[:-1], -1))
        if bias is not None:
            result += bias
        return result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        own = grad.reshape(-1, grad.shape[-1])
        flat = self.region.enter(grad).reshape(-1, grad.shape[-1])  # (N, out)
        to_x = xp.matmul(flat, self.weight).reshape(self.shape) if self.needs[0] else None
        to_weight = Product(flat.T, self.x) if self.needs[1] else None
        return _gradients(self, to_x, to_weight, own)


def _gradients(
    operation: Operation, to_x: Gradient, to_weight: Gradient, flat: Array
) -> Sequence[Gradient]:
    """Those of x, the weight and, if there is one, the bias; `flat` is the result's (N, out)."""
    if len(operation.needs) == 2:
        return to_x, to_weight
    return to_x, to_weight, column_sums(flat) if operation.needs[2] else None


class ShardedLinear(Module):
    """What column-parallel and row-parallel Linears have in common."""

    product: type[ColumnParallelProduct | RowParallelProduct]

    def __init__(self, region: ParallelRegion, weight: Parameter, bias: Parameter | None) -> None:
        self.region, self.weight, self.bias = region, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        own = () if self.bias is None else (self.bias,)
        return self.product(self.region)(x, self.weight, *own)


class ColumnParallelLinear(ShardedLinear):
    """A Linear with this rank's output features: (..., in) -> (..., out / n)."""

    product = ColumnParallelProduct

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]} of {self.region.group.size} parts"


class RowParallelLinear(ShardedLinear):
    """A Linear with this rank's input features: (..., in / n) -> (..., out)."""

    product = RowParallelProduct

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} of {self.region.group.size} parts, {self.weight.shape[0]}"


class SequenceParallelEmbedding(Module):
    """A replicated Embedding of positions; each rank looks up its shard of the sequence."""

    def __init__(self, region: ParallelRegion, weight: Parameter) -> None:
        self.region, self.weight = region, weight

    def forward(self, positions: Array) -> Tensor:
        """positions (..., T) -> (..., T / n, C)."""
        length = positions.shape[-1] // self.region.group.size
        start = self.region.group.rank * length
        return F.embedding(positions[..., start : start + length], self.weight)


class ColumnParallelDropout(Module):
    """Dropout of this rank's features (the last axis): the part of the mask that one process would
    draw, if the features divide evenly."""

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
