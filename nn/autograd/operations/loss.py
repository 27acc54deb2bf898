"""Cross-entropy from logits, fused with its softmax."""

from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from ringlet.nn.autograd.conversion import array_of, host_array, only_floats, tensor_of
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.normalization import log_softmax
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray, block_size, xp

__all__ = ["cross_entropy", "token_cross_entropy"]

LOGITS = 64 * 1024
"""Logits processed at once: they stay in the cache from the maximum to the sum."""

Reduction: TypeAlias = Literal["mean", "sum", "none"]


class Targets(Protocol):
    """What the softmax of N rows of logits (N, V) should be."""

    def losses(self, logits: Array, rows: slice, out: Array) -> Array:
        """The losses (R,) of rows (R, V); writes the softmax to `out`, which may be `logits`."""

    def differentiate(self, p: Array, rows: slice) -> None:
        """Turn some rows' softmax into the gradient of their losses, in place."""


class ClassTargets:
    """One class for each row.

    With smoothing e (Szegedy et al., "Rethinking the inception architecture", 2016, section 7) the
    target has a probability of 1 - e, and all V classes share e; `classes` (V,) are their weights.
    `targets` (N,) and `classes` are on the host.
    """

    def __init__(
        self, targets: Array, smoothing: float, classes: Array | None, count: int, dtype: Any
    ) -> None:
        weights = np.ones(count, dtype) if classes is None else classes.astype(dtype)
        others = weights * dtype.type(smoothing / count)  # (V,)
        share = weights[targets] * dtype.type(1 - smoothing)  # (N,)
        self.columns, self.target_share = asarray(targets), asarray(share)
        self.row_share = asarray(share + others.sum())
        self.others = asarray(others) if smoothing else None
        self.plain = classes is None and not smoothing

    def losses(self, logits: Array, rows: slice, out: Array) -> Array:
        losses = xp.empty(len(logits), logits.dtype)
        ones = xp.ones((logits.shape[1], 1), logits.dtype)
        step = max(1, block_size(LOGITS) // logits.shape[1])
        columns, target_share = self.columns[rows], self.target_share[rows]
        row_share = self.row_share[rows]
        for start in range(0, len(logits), step):
            block = slice(start, start + step)
            p = out[block]
            xp.subtract(logits[block], logits[block].max(axis=1, keepdims=True), out=p)
            loss = -p[xp.arange(len(p)), columns[block]] * target_share[block]
            if self.others is not None:
                loss -= p @ self.others
            xp.exp(p, out=p)
            total = p @ ones  # (rows, 1)
            loss += xp.log(total[:, 0]) * row_share[block]
            losses[block] = loss
            p *= 1 / total
        return losses

    def differentiate(self, p: Array, rows: slice) -> None:
        if not self.plain:
            p *= self.row_share[rows, None]
        if self.others is not None:
            p -= self.others
        p[xp.arange(len(p)), self.columns[rows]] -= self.target_share[rows]


class CrossEntropy(Operation):
    """-log softmax(logits)[target] times the row's weight, for each row or summed."""

    def __init__(self, targets: Targets, weights: Array, reduction: Reduction) -> None:
        self.targets, self.weights, self.reduction = targets, weights, reduction

    def forward(self, logits: Array) -> Array:  # (N, V)
        self.probabilities = xp.empty(logits.shape, logits.dtype)
        losses = self.targets.losses(logits, slice(None), self.probabilities)
        losses *= self.weights
        return losses if self.reduction == "none" else xp.asarray(losses.sum(), logits.dtype)

    def backward(self, grad: Array) -> Gradients:
        result = self.probabilities
        self.targets.differentiate(result, slice(None))
        result *= (self.weights * grad)[:, None]
        return (result,)


def cross_entropy(
    input: Tensor,
    target: Tensor | Array,
    weight: Tensor | Array | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(logits)[target] with PyTorch's class axis, in nats: (N, C, ...), (N, ...) -> ().

    Logits of one axis (C,) have a target (). See `token_cross_entropy`, whose classes are on the
    last axis, for the options and errors.
    """
    if input.ndim > 2:
        shares = are_probabilities(target)
        fitting = input.shape if shares else (input.shape[0], *input.shape[2:])
        if tuple(target.shape) != fitting:
            raise ValueError(
                f"logits of shape {input.shape} and targets of {tuple(target.shape)} do not match: "
                "classes are on axis 1; token_cross_entropy has them on the last one"
            )
        input = input.movedim(1, -1)
        if shares:
            target = tensor_of(target).movedim(1, -1)
    return token_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)


def token_cross_entropy(
    logits: Tensor,
    targets: Tensor | Array,
    weight: Tensor | Array | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(logits)[target] over the last axis, in nats: (..., V), (...) -> ().

    "mean" averages over the targets that are not `ignore_index`, weighted by the `weight` (V,) of
    their classes; "none" gives (...). Floating-point targets (..., V) are probabilities of the
    classes: the loss is -sum of weight * target * log softmax(logits), "mean" averages over all
    rows, and the targets may require a gradient. Raises IndexError naming a target outside the
    vocabulary, ValueError naming the shapes if they do not match.
    """
    check_options(reduction, label_smoothing)
    only_floats("cross_entropy", logits)
    if are_probabilities(targets):
        if ignore_index >= 0:
            raise ValueError(f"ignore_index is {ignore_index}; no probabilities are ignored")
        return _to_probabilities(logits, targets, weight, reduction, label_smoothing)
    count, dtype = logits.shape[-1], logits.dtype
    ids, classes = checked(targets, weight, ignore_index, logits.shape[:-1], count)
    counted = ids != ignore_index
    columns = np.where(counted, ids, 0)
    weights = np.where(counted, 1 / divisor_of(ids[counted], classes, reduction), 0).astype(dtype)
    own = ClassTargets(columns, label_smoothing, classes, count, dtype)
    loss = CrossEntropy(own, asarray(weights), reduction)(logits.reshape(-1, count))
    return loss.reshape(*logits.shape[:-1]) if reduction == "none" else loss


def check_options(reduction: str, label_smoothing: float) -> None:
    """Raise ValueError for an unknown reduction or a smoothing outside 0 to 1."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; it must be 'mean', 'sum' or 'none'")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be from 0 to 1")


def are_probabilities(targets: Any) -> bool:
    """Whether targets are floating-point."""
    return bool(getattr(array_of(targets), "dtype", np.dtype(int)).kind == "f")


def checked(
    targets: Tensor | Array,
    weight: Tensor | Array | None,
    ignore_index: int,
    shape: tuple[int, ...],
    count: int,
) -> tuple[Array, Array | None]:
    """Ids (N,) and weights of `count` classes on the host, checked as `cross_entropy` says."""
    ids, classes = host_array(targets), None if weight is None else host_array(weight)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"targets are ids, or probabilities of the classes, not {ids.dtype}")
    if ids.shape != shape:
        logits = (*shape, count)
        raise ValueError(f"logits of shape {logits} and targets of {ids.shape} do not match")
    wrong = ids[(ids != ignore_index) & ((ids < 0) | (ids >= count))]
    if wrong.size:
        raise IndexError(f"target {wrong[0]} is out of range for a vocabulary of {count}")
    if classes is not None and classes.shape != (count,):
        raise ValueError(f"weights of shape {classes.shape} do not match {count} classes")
    return ids.reshape(-1), classes


def divisor_of(ids: Array, classes: Array | None, reduction: str) -> float:
    """The divisor of the summed losses: the weight of all targets that count, or 1."""
    if reduction != "mean":
        return 1.0
    return float(len(ids) if classes is None else classes[ids].sum()) or 1.0


def _to_probabilities(
    logits: Tensor,
    targets: Tensor | Array,
    weight: Tensor | Array | None,
    reduction: Reduction,
    smoothing: float,
) -> Tensor:
    """-sum of weight * target * log softmax(logits): for each row, summed or averaged."""
    if targets.shape != logits.shape:
        raise ValueError(
            f"logits of shape {logits.shape} and probabilities of {targets.shape} do not match"
        )
    p = targets if isinstance(targets, Tensor) else Tensor(asarray(targets, logits.dtype))
    if smoothing:
        p = p * (1 - smoothing) + smoothing / logits.shape[-1]
    if weight is not None:
        p = p * Tensor(asarray(array_of(weight), logits.dtype))
    return reduced(-(log_softmax(logits) * p).sum(-1), reduction)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """The losses, their sum or their mean; raises ValueError for an unknown reduction."""
    check_options(reduction, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()
