"""Softmax and layer normalization."""

from collections.abc import Sequence

import numpy as np

from ringlet.nn.operations.products import column_sums
from ringlet.nn.tensor import Array, Gradient, Operation, Tensor

BLOCK = 32 * 1024
"""Layer normalization works on rows of about so many elements: they stay in the cache."""


class Softmax(Operation):
    """exp(x) / sum(exp(x)) along an axis."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        y: Array = np.exp(x - x.max(axis=self.dim, keepdims=True))
        y /= y.sum(axis=self.dim, keepdims=True)
        self.y = y
        return y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        product = grad * self.y
        product -= self.y * product.sum(axis=self.dim, keepdims=True)
        return (product,)


class LogSoftmax(Operation):
    """x - log(sum(exp(x))) along an axis."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, *arrays: Array) -> Array:
        (x,) = arrays
        y: Array = x - x.max(axis=self.dim, keepdims=True)
        y -= np.log(np.exp(y).sum(axis=self.dim, keepdims=True))
        self.y = y
        return y

    def backward(self, grad: Array) -> Sequence[Gradient]:
        return (grad - np.exp(self.y) * grad.sum(axis=self.dim, keepdims=True),)


class LayerNorm(Operation):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    Ba, Kiros and Hinton, "Layer normalization" (2016). The backward pass needs only the
    normalized x and 1 / sqrt(variance + eps).
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, *arrays: Array) -> Array:
        x, self.weight, self.bias = arrays
        rows = x.reshape(-1, x.shape[-1])  # (N, C)
        self.normal = np.empty(rows.shape, rows.dtype)
        self.scale = np.empty((len(rows), 1), rows.dtype)
        result = np.empty(x.shape, x.dtype)
        flat = result.reshape(rows.shape)
        mean_of = np.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
        for block in _row_blocks(rows):
            normal, y = self.normal[block], flat[block]
            np.subtract(rows[block], rows[block] @ mean_of, out=normal)
            np.multiply(normal, normal, out=y)
            scale = 1 / np.sqrt(y @ mean_of + np.asarray(self.eps, x.dtype))  # (rows, 1)
            self.scale[block] = scale
            normal *= scale
            np.multiply(normal, self.weight, out=y)
            y += self.bias
        return result

    def backward(self, grad: Array) -> Sequence[Gradient]:
        g = grad.reshape(self.normal.shape)  # (N, C)
        result = np.empty(grad.shape, grad.dtype)
        flat = result.reshape(g.shape)
        to_weight = np.zeros_like(self.weight)
        mean_of = np.full((g.shape[-1], 1), 1 / g.shape[-1], g.dtype)
        weight_mean = self.weight[:, None] * mean_of  # (C, 1)
        for block in _row_blocks(g):
            normal, out = self.normal[block], flat[block]
            product = g[block] * normal
            to_weight += column_sums(product)
            # with h = g * weight: (h - mean(h) - normal * mean(h * normal)) * scale
            np.multiply(normal, -(product @ weight_mean), out=out)
            np.multiply(g[block], self.weight, out=product)
            out += product
            out -= g[block] @ weight_mean
            out *= self.scale[block]
        return result, to_weight, column_sums(g)


def _row_blocks(rows: Array) -> list[slice]:
    step = max(1, BLOCK // rows.shape[1])
    return [slice(start, start + step) for start in range(0, len(rows), step)]


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis."""
    return Softmax(dim)(x)


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """The logarithm of softmax, without its underflow."""
    return LogSoftmax(dim)(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalize over the last axis: (..., C), (C,), (C,) -> (..., C)."""
    if x.shape[-1:] != weight.shape:
        raise ValueError(f"input of shape {x.shape} and weight of shape {weight.shape} do not fit")
    return LayerNorm(eps)(x, weight, bias)
