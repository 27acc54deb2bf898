"""Softmax, and normalization over the last axis in blocks of rows that stay in the cache."""

import functools
from collections.abc import Sequence
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
from ringlet.nn.backend import Array, block_size, xp

__all__ = ["layer_norm", "log_softmax", "rms_norm", "softmax"]

BLOCK = 32 * 1024
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

    Ba, Kiros and Hinton, "Layer normalization" (2016). The backward pass needs only the
    normalized x and 1 / sqrt(variance + eps).
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        self.weight, self.bias = weight, bias
        rows = x.reshape(-1, x.shape[-1])  # (N, C)
        self.normal = xp.empty(rows.shape, rows.dtype)
        self.scale = xp.empty((len(rows), 1), rows.dtype)
        result = xp.empty(x.shape, x.dtype)
        flat = result.reshape(rows.shape)
        mean_of = xp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
        for block in _row_blocks(rows):
            normal, y = self.normal[block], flat[block]
            xp.subtract(rows[block], rows[block] @ mean_of, out=normal)
            xp.multiply(normal, normal, out=y)
            scale = 1 / xp.sqrt(y @ mean_of + in_dtype(self.eps, x))  # (rows, 1)
            self.scale[block] = scale
            normal *= scale
            xp.multiply(normal, self.weight, out=y)
            y += self.bias
        return result

    def backward(self, grad: Array) -> Gradients:
        g = grad.reshape(self.normal.shape)  # (N, C)
        result = xp.empty(grad.shape, grad.dtype)
        flat = result.reshape(g.shape)
        to_weight = xp.zeros_like(self.weight)
        mean_of = xp.full((g.shape[-1], 1), 1 / g.shape[-1], g.dtype)
        weight_mean = self.weight[:, None] * mean_of  # (C, 1)
        for block in _row_blocks(g):
            normal, out = self.normal[block], flat[block]
            product = g[block] * normal
            to_weight += column_sums(product)
            # with h = g * weight: (h - mean(h) - normal * mean(h * normal)) * scale
            xp.multiply(normal, -(product @ weight_mean), out=out)
            xp.multiply(g[block], self.weight, out=product)
            out += product
            out -= g[block] @ weight_mean
            out *= self.scale[block]
        return result, to_weight, column_sums(g)


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
        result = xp.empty(x.shape, x.dtype)
        flat = result.reshape(self.x.shape)
        mean_of = xp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
        for block in _row_blocks(self.x):
            rows, y = self.x[block], flat[block]
            xp.multiply(rows, rows, out=y)
            scale = 1 / xp.sqrt(y @ mean_of + in_dtype(self.eps, x))  # (rows, 1)
            self.scale[block] = scale
            xp.multiply(rows, scale, out=y)
            y *= self.weight
        return result

    def backward(self, grad: Array) -> Gradients:
        g = grad.reshape(self.x.shape)  # (N, C)
        result = xp.empty(grad.shape, grad.dtype)
        flat = result.reshape(g.shape)
        to_weight = xp.zeros_like(self.weight)
        weight_mean = self.weight[:, None] / in_dtype(g.shape[-1], g)  # (C, 1)
        for block in _row_blocks(g):
            rows, scale, out = self.x[block], self.scale[block], flat[block]
            # with n = x * scale and h = g * weight: (h - n * mean(h * n)) * scale
            normal = rows * scale
            product = g[block] * normal
            to_weight += column_sums(product)
            normal *= product @ weight_mean
            xp.multiply(g[block], self.weight, out=out)
            out -= normal
            out *= scale
        return result, to_weight


def _row_blocks(rows: Array) -> list[slice]:
    step = max(1, block_size(BLOCK) // rows.shape[1])
    return [slice(start, start + step) for start in range(0, len(rows), step)]


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
