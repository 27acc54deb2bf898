"""Losses that are composed of other operations."""

from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import TensorLike, array_of, tensor_of
from ringlet.nn.autograd.operations.activations import softplus
from ringlet.nn.autograd.operations.arithmetic import where
from ringlet.nn.autograd.operations.indexing import gather
from ringlet.nn.autograd.operations.loss import (
    Reduction,
    check_options,
    checked,
    divisor_of,
    reduced,
)
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray

__all__ = ["binary_cross_entropy_with_logits", "kl_div", "mse_loss", "nll_loss"]


def nll_loss(
    input: Tensor,
    target: Tensor | Array,
    weight: Tensor | Array | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """-input[target] of log-probabilities: (N, C, ...), (N, ...) -> (); also (C,), ().

    Options and errors are those of `cross_entropy`.
    """
    check_options(reduction, 0.0)
    rows = input.movedim(min(1, input.ndim - 1), -1)  # (N, ..., C)
    count, dtype = rows.shape[-1], input.dtype
    ids, classes = checked(target, weight, ignore_index, rows.shape[:-1], count)
    counted = ids != ignore_index
    shares = np.ones(count, dtype) if classes is None else classes.astype(dtype)
    columns = np.where(counted, ids, 0)
    factors = np.where(counted, -shares[columns] / divisor_of(ids[counted], classes, reduction), 0)
    picked = gather(rows.reshape(-1, count), 1, asarray(columns[:, None])).reshape(-1)
    losses = picked * Tensor(asarray(factors.astype(dtype)))
    return losses.reshape(rows.shape[:-1]) if reduction == "none" else losses.sum()


def mse_loss(input: Tensor, target: TensorLike, reduction: Reduction = "mean") -> Tensor:
    """The mean of (input - target)^2."""
    _check_shapes(input, target)
    return reduced((input - target).square(), reduction)


def kl_div(
    input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """sum of target * (log(target) - input), where `input` holds log-probabilities.

    "batchmean" divides the sum by the first axis' length, "mean" by the number of elements.
    """
    _check_shapes(input, target)
    if log_target:
        losses = target.exp() * (target - input)
    else:
        safe = where(target == 0, 1, target)  # 0 log 0 is 0
        losses = target * safe.log() - target * input
    if reduction == "batchmean":
        return losses.sum() / (input.shape or (1,))[0]
    return reduced(losses, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | Array | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | Array | None = None,
) -> Tensor:
    """-(target log sigmoid(input) + (1 - target) log(1 - sigmoid(input))).

    `weight` multiplies each loss, `pos_weight` those of the targets' share of ones.
    """
    _check_shapes(input, target)
    # log sigmoid(x) = -softplus(-x), and log(1 - sigmoid(x)) = -softplus(-x) - x
    share = 1 if pos_weight is None else 1 + (tensor_of(pos_weight) - 1) * target
    losses = (1 - target) * input + softplus(-input) * share
    return reduced(losses if weight is None else losses * tensor_of(weight), reduction)


def _check_shapes(input: Tensor, target: Any) -> None:
    if array_of(target).shape != input.shape:
        shapes = f"{input.shape} and {array_of(target).shape}"
        raise ValueError(f"input and target of shapes {shapes} do not match")
