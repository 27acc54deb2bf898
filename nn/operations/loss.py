"""Cross-entropy from logits, fused with its softmax."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ringlet.nn.backend import asarray, block_size, xp
from ringlet.nn.operations.normalization import log_softmax
from ringlet.nn.tensor import Array, Gradient, Operation, Tensor, array_of, host_array

ROWS = 64
"""Rows worked on at once: they stay in the cache from the maximum to the sum."""


class CrossEntropy(Operation):
    """-log softmax(logits)[target], for each row or summed or averaged over those that count.

    With smoothing e (Szegedy et al., "Rethinking the inception architecture", 2016, section 7) the
    target has a probability of 1 - e, and all V classes share e; `classes` (V,) weighs them.
    """

    def __init__(
        self,
        targets: Array,
        reduction: str,
        ignore_index: int,
        smoothing: float = 0.0,
        classes: Array | None = None,
    ) -> None:
        self.targets, self.reduction, self.ignore_index = targets, reduction, ignore_index
        self.smoothing, self.classes = smoothing, classes

    def forward(self, *arrays: Array) -> Array:
        (logits,) = arrays  # (N, V)
        self._weigh(logits)
        self.probabilities = xp.empty(logits.shape, logits.dtype)
        losses = xp.empty(len(logits), logits.dtype)
        ones = xp.ones((logits.shape[1], 1), logits.dtype)
        rows = block_size(ROWS * logits.shape[1]) // logits.shape[1]
        for start in range(0, len(logits), rows):
            block = slice(start, start + rows)
            p, columns = self.probabilities[block], self.columns[block]
            xp.subtract(logits[block], logits[block].max(axis=1, keepdims=True), out=p)
            loss = -p[xp.arange(len(p)), columns] * self.target_share[block]
            if self.smoothing:
                loss -= p @ self.others
            xp.exp(p, out=p)
            total = p @ ones  # (rows, 1)
            loss += xp.log(total[:, 0]) * self.row_share[block]
            losses[block] = loss
            p /= total
        losses *= self.weights[:, 0]
        return losses if self.reduction == "none" else xp.asarray(losses.sum(), logits.dtype)

    def _weigh(self, logits: Array) -> None:
        """On the host: the probabilities that are wanted of the target and of the others, times
        the weights of their classes; and the weights of the rows."""
        dtype, count = logits.dtype, logits.shape[1]
        counted = self.targets != self.ignore_index
        columns = np.where(counted, self.targets, 0)
        classes = np.ones(count, dtype) if self.classes is None else self.classes.astype(dtype)
        chosen = classes[columns]  # (N,)
        others = classes * dtype.type(self.smoothing / count)  # (V,)
        share = chosen * dtype.type(1 - self.smoothing)
        total = float(chosen[counted].sum()) if self.reduction == "mean" else 1
        weights = np.where(counted, 1 / (total or 1), 0).astype(dtype)[:, None]  # (N, 1)
        self.columns, self.others, self.weights = map(asarray, (columns, others, weights))
        self.target_share, self.row_share = asarray(share), asarray(share + others.sum())

    def backward(self, grad: Array) -> Sequence[Gradient]:
        result = self.probabilities
        if self.smoothing or self.classes is not None:
            result *= self.row_share[:, None]
            result -= self.others
        result[xp.arange(len(result)), self.columns] -= self.target_share
        result *= self.weights * grad.reshape(-1, 1)
        return (result,)


def cross_entropy(
    logits: Tensor,
    targets: Tensor | Array,
    weight: Tensor | Array | None = None,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(logits)[target] over the last axis, in nats: (..., V), (...) -> ().

    "mean" averages over the targets that are not `ignore_index`, weighted by `weight` (V,) of
    their classes; "none" gives (...). Targets of floating point (..., V) are probabilities of the
    classes: then it is -sum of weight * target * log softmax(logits), "mean" averages over all
    rows, and the targets may have a gradient. Raises IndexError naming the target that is no id
    of the vocabulary, ValueError with the shapes if they do not fit.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; there are 'mean', 'sum' and 'none'")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it has to be from 0 to 1")
    if getattr(array_of(targets), "dtype", np.dtype(int)).kind == "f":
        return _to_probabilities(logits, targets, weight, reduction, label_smoothing)
    ids = host_array(targets)
    if ids.shape != logits.shape[:-1]:
        raise ValueError(f"logits of shape {logits.shape} and targets of {ids.shape} do not fit")
    wrong = ids[(ids != ignore_index) & ((ids < 0) | (ids >= logits.shape[-1]))]
    if wrong.size:
        raise IndexError(f"target {wrong[0]} is no id of a vocabulary of {logits.shape[-1]}")
    classes = None if weight is None else host_array(weight)
    if classes is not None and classes.shape != logits.shape[-1:]:
        raise ValueError(f"weights of shape {classes.shape} for {logits.shape[-1]} classes")
    flat = logits.reshape(-1, logits.shape[-1])
    options = (reduction, ignore_index, label_smoothing, classes)
    loss = CrossEntropy(ids.reshape(-1), *options)(flat)
    return loss.reshape(*ids.shape) if reduction == "none" else loss


def _to_probabilities(
    logits: Tensor,
    targets: Tensor | Array,
    weight: Tensor | Array | None,
    reduction: str,
    smoothing: float,
) -> Tensor:
    """-sum of weight * target * log softmax(logits), for each row or summed or averaged."""
    if targets.shape != logits.shape:
        raise ValueError(
            f"logits of shape {logits.shape} and probabilities of {targets.shape} do not fit"
        )
    p = targets if isinstance(targets, Tensor) else Tensor(asarray(targets, logits.dtype))
    if smoothing:
        p = p * (1 - smoothing) + smoothing / logits.shape[-1]
    if weight is not None:
        p = p * Tensor(asarray(array_of(weight), logits.dtype))
    losses = -(log_softmax(logits) * p).sum(-1)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()
