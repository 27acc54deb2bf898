"""Softmax, and normalization over the last axis in blocks of rows that stay in the cache."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import (
    axis_of,
    in_dtype,
    named,
    of_one_dtype,
    only_floats,
    unary,
)
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.arithmetic import add
from ringlet.nn.autograd.operations.products import column_sums
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, aligned_empty, block_size, xp

__all__ = ["layer_norm", "log_softmax", "rms_norm", "softmax"]

BLOCK = 64 * 1024
"""Elements in each block of rows: they stay in the cache."""


class Softmax(Operation):
    """exp(x) / sum(exp(x)) along an axis."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Array) -> Array:
        y = xp.exp(x - _largest(x, self.dim))
        y /= y.sum(axis=self.dim, keepdims=True)
        self.y = y
        return y

    def backward(self, grad: Array) -> Gradients:
        product = grad * self.y
        product -= self.y * product.sum(axis=self.dim, keepdims=True)
        return (product,)


class LogSoftmax(Operation):
    """The logarithm of softmax along an axis, x - log(sum(exp(x))), without its underflow."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Array) -> Array:
        y = x - _largest(x, self.dim)
        if y.size:
            y -= xp.log(xp.exp(y).sum(axis=self.dim, keepdims=True))
        self.y = y
        return y

    def backward(self, grad: Array) -> Gradients:
        return (grad - xp.exp(self.y) * grad.sum(axis=self.dim, keepdims=True),)


def _largest(x: Array, dim: int) -> Any:
    """The maxima along an axis, as numbers to subtract; x may be empty."""
    if x.size:
        return x.max(axis=dim, keepdims=True)
    axis_of(dim, x.ndim)
    return 0


class LayerNorm(Operation):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    Ba, Kiros and Hinton, "Layer normalization" (2016). Keeps x, which other operations keep too,
    and for each row the mean and scale = 1 / sqrt(variance + eps).
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        self.weight = weight
        self.x = x.reshape(-1, x.shape[-1])  # (N, C)
        self.mean, self.scale = xp.empty((2, len(self.x), 1), x.dtype)
        result = aligned_empty(x.shape, x.dtype)
        flat = result.reshape(self.x.shape)
        blocks, mean_of = _Blocks(self.x, weight, 2), _mean_of(x)
        ones, weights = blocks.ones, blocks.weights
        blocks.spare[1] = bias
        for block, (centred, shift) in blocks:
            rows, y, mean = self.x[block], flat[block], self.mean[block]
            xp.matmul(rows, mean_of, out=mean)
            blocks.spread(-mean, ones, out=centred)
            centred += rows
            xp.multiply(centred, centred, out=y)
            scale = 1 / xp.sqrt(y @ mean_of + in_dtype(self.eps, x))  # (rows, 1)
            self.scale[block] = scale
            blocks.spread(scale, weights, out=y)
            y *= centred
            y += shift
        return result

    def backward(self, grad: Array) -> Gradients:
        g = grad.reshape(self.x.shape)  # (N, C)
        result = aligned_empty(grad.shape, grad.dtype)
        flat = result.reshape(g.shape)
        weight_mean = self.weight[:, None] * _mean_of(g)  # (C, 1)
        to_weight, to_bias = xp.zeros((2, g.shape[1]), g.dtype)
        cube = self.scale * self.scale * self.scale
        blocks = _Blocks(g, self.weight, 2)
        ones, weights = blocks.ones, blocks.weights
        for block, (centred, product) in blocks:
            own, scale, out = g[block], self.scale[block], flat[block]
            blocks.spread(-self.mean[block], ones, out=centred)
            centred += self.x[block]
            xp.multiply(own, centred, out=product)
            to_weight += (scale.T @ product)[0]
            to_bias += column_sums(own)
            # (h - mean(h) - n * mean(h * n)) * scale, with h = g * weight, n = (x - mean) * scale
            slope = cube[block] * (product @ weight_mean)  # (rows, 1)
            blocks.spread(scale, weights, out=out)
            out *= own
            blocks.spread(slope, ones, out=product)
            product *= centred
            out -= product
            blocks.spread((own @ weight_mean) * scale, ones, out=product)
            out -= product
        return result, to_weight, to_bias


class RMSNorm(Operation):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis.

    Zhang and Sennrich, "Root mean square layer normalization" (2019). Keeps x, which other
    operations keep too, and one number for each row.
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x: Array, weight: Array) -> Array:
        self.weight = weight
        self.x = x.reshape(-1, x.shape[-1])  # (N, C)
        self.scale = xp.empty((len(self.x), 1), x.dtype)
        result = aligned_empty(x.shape, x.dtype)
        flat = result.reshape(self.x.shape)
        blocks, mean_of = _Blocks(self.x, weight), _mean_of(x)
        for block, _ in blocks:
            rows, y = self.x[block], flat[block]
            xp.multiply(rows, rows, out=y)
            scale = 1 / xp.sqrt(y @ mean_of + in_dtype(self.eps, x))  # (rows, 1)
            self.scale[block] = scale
            blocks.spread(scale, blocks.weights, out=y)
            y *= rows
        return result

    def backward(self, grad: Array) -> Gradients:
        g = grad.reshape(self.x.shape)  # (N, C)
        result = aligned_empty(grad.shape, grad.dtype)
        flat = result.reshape(g.shape)
        weight_mean = self.weight[:, None] * _mean_of(g)  # (C, 1)
        to_weight = xp.zeros_like(self.weight)
        cube = self.scale * self.scale * self.scale
        blocks = _Blocks(g, self.weight, 1)
        ones, weights = blocks.ones, blocks.weights
        for block, (product,) in blocks:
            rows, out, scale = self.x[block], flat[block], self.scale[block]
            xp.multiply(g[block], rows, out=product)
            to_weight += (scale.T @ product)[0]
            # With h = g * weight and n = x * scale: (h - n * mean(h * n)) * scale
            slope = cube[block] * (product @ weight_mean)  # (rows, 1)
            blocks.spread(scale, weights, out=out)
            out *= g[block]
            blocks.spread(slope, ones, out=product)
            product *= rows
            out -= product
        return result, to_weight


class _Blocks:
    """Blocks of rows that stay in the cache, with so many of their size to compute in.

    NumPy takes more than twice as long for an array and a row or a column as for two arrays.
    BLAS writes the product of a column and a row as fast as an array is copied, so these are
    spread into a block first.
    """

    def __init__(self, rows: Array, weight: Array, spare: int = 0) -> None:
        count, width = rows.shape
        step = min(count, max(1, block_size(BLOCK) // width))
        self._slices = [slice(start, start + step) for start in range(0, count, step)]
        self._count, self._columns = count, xp.zeros((step, 2), rows.dtype)
        # A row is the first of two, as a column is: NumPy has no BLAS for a product of one and one.
        self.ones, self.weights = xp.zeros((2, 2, width), rows.dtype)
        self.ones[0], self.weights[0] = 1, weight
        self.spare = aligned_empty((spare, step, width), rows.dtype)

    def __iter__(self) -> Iterator[tuple[slice, Array]]:
        """Each block's rows, and the spare blocks, as long as it."""
        for block in self._slices:
            yield block, self.spare[:, : self._count - block.start]

    def spread(self, column: Array, row: Array, out: Array) -> None:
        """Write the product of a column (R, 1) and `ones` or `weights` to `out` (R, C)."""
        columns = self._columns[: len(column)]
        columns[:, :1] = column
        xp.matmul(columns, row, out=out)


def _mean_of(x: Array) -> Array:
    """The column (C, 1) that rows are multiplied by for their mean: faster than a reduction."""
    return xp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)


softmax = unary(Softmax, only_floats, along=True)
log_softmax = named("log_softmax", LogSoftmax.__doc__, unary(LogSoftmax, only_floats, along=True))


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize over the last axes, those of `normalized_shape`; then scale and shift.

    Weight and bias have that shape. Raises ValueError naming the shapes if they do not match.
    """
    shape = _normalized(input, normalized_shape, weight, bias)
    weight = Tensor(xp.ones(shape, input.dtype)) if weight is None else weight
    bias = Tensor(xp.zeros(shape, input.dtype)) if bias is None else bias
    return _over_rows(LayerNorm(eps), input, weight, bias)


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root of the mean square over the last axes; then scale.

    `eps` is by default that of the dtype, as in PyTorch. Raises ValueError naming the shapes if
    they do not match.
    """
    shape = _normalized(input, normalized_shape, weight)
    weight = Tensor(xp.ones(shape, input.dtype)) if weight is None else weight
    eps = float(np.finfo(input.dtype).eps) if eps is None else eps
    return _over_rows(RMSNorm(eps), input, weight)


def _normalized(
    x: Tensor, normalized_shape: int | Sequence[int], *parameters: Tensor | None
) -> tuple[int, ...]:
    """The normalized shape, after checking."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"the last axes of an input of shape {x.shape} are not {shape}")
    for parameter in parameters:
        if parameter is not None and parameter.shape != shape:
            raise ValueError(
                f"input of shape {x.shape} and weight of shape {parameter.shape} do not match"
            )
    return shape


def _over_rows(operation: Operation, x: Tensor, *parameters: Tensor) -> Tensor:
    """Run it with all axes that the parameters have as one."""
    if any(each.data.dtype is not x.data.dtype for each in parameters):
        of_one_dtype(type(operation).__name__, x, *parameters)
    axes = parameters[0].ndim
    if not x.data.size:  # there is nothing to normalize
        return functools.reduce(add, parameters[1:], x * parameters[0])
    if axes == 1:
        return operation(x, *parameters)
    rows = x.reshape(*x.shape[:-axes], parameters[0].numel())
    return operation(rows, *(each.reshape(-1) for each in parameters)).reshape(*x.shape)
