"""Cross-entropy from logits, fused with its softmax."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ringlet.nn.tensor import Array, Gradient, Operation, Tensor, array_of

ROWS = 64
"""Rows worked on at once: they stay in the cache from the maximum to the sum."""


class CrossEntropy(Operation):
    """-log softmax(logits)[target], summed or averaged over the targets that count."""

    def __init__(self, targets: Array, reduction: str, ignore_index: int) -> None:
        self.targets, self.reduction, self.ignore_index = targets, reduction, ignore_index

    def forward(self, *arrays: Array) -> Array:
        (logits,) = arrays  # (N, V)
        counted = self.targets != self.ignore_index
        self.columns = np.where(counted, self.targets, 0)
        self.probabilities = np.empty(logits.shape, logits.dtype)
        losses = np.empty(len(logits), logits.dtype)
        ones = np.ones((logits.shape[1], 1), logits.dtype)
        for start in range(0, len(logits), ROWS):
            block = slice(start, start + ROWS)
            p, columns = self.probabilities[block], self.columns[block]
            np.subtract(logits[block], logits[block].max(axis=1, keepdims=True), out=p)
            chosen = p[np.arange(len(p)), columns]
            np.exp(p, out=p)
            total = p @ ones  # (rows, 1)
            losses[block] = np.log(total[:, 0]) - chosen
            p /= total
        count = int(counted.sum())
        divisor = 1 if self.reduction == "sum" else max(count, 1)
        self.weights = np.where(counted, 1 / divisor, 0).astype(logits.dtype)[:, None]  # (N, 1)
        return np.asarray((losses * self.weights[:, 0]).sum(), logits.dtype)

    def backward(self, grad: Array) -> Sequence[Gradient]:
        result = self.probabilities
        result[np.arange(len(result)), self.columns] -= 1
        result *= self.weights * grad
        return (result,)


def cross_entropy(
    logits: Tensor,
    targets: Tensor | Array,
    reduction: Literal["mean", "sum"] = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """-log softmax(logits)[target] over the last axis, in nats: (..., V), (...) -> ().

    "mean" averages over the targets that are not `ignore_index`. Raises IndexError naming the
    target that is no id of the vocabulary.
    """
    ids = np.asarray(array_of(targets))
    if ids.shape != logits.shape[:-1]:
        raise ValueError(f"logits of shape {logits.shape} and targets of {ids.shape} do not fit")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; there are 'mean' and 'sum'")
    wrong = ids[(ids != ignore_index) & ((ids < 0) | (ids >= logits.shape[-1]))]
    if wrong.size:
        raise IndexError(f"target {wrong[0]} is no id of a vocabulary of {logits.shape[-1]}")
    flat = logits.reshape(-1, logits.shape[-1])
    return CrossEntropy(ids.reshape(-1), reduction, ignore_index)(flat)
