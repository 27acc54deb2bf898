"""A linear layer and the cross-entropy of its result, with the logits computed in blocks of rows.

Since the loss is a number, its gradient in backward is only a factor. So forward computes the
gradients of the input and the weight, from each block's logits (Hsu et al., "Liger Kernel:
efficient Triton kernels for LLM training", 2024). Until backward it keeps either these or the
logits' gradients, whichever take less memory. Rows that do not count are skipped.
"""

import math
from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import in_dtype
from ringlet.nn.autograd.deferred import Deferred, Gradients, Product, add_product
from ringlet.nn.autograd.operations import loss
from ringlet.nn.autograd.operations.products import column_sums, linear
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray, block_size, xp

__all__ = ["linear_cross_entropy"]

ROWS = 256
"""The smallest number of rows in a block: fewer would not keep BLAS busy, and each block adds to
the whole of the weight's gradient."""

LOGITS = 1 << 22
"""Logits in a block, if that is more than ROWS rows."""


class Scaled(Deferred):
    """A gradient computed except for a factor; its own memory is overwritten."""

    def __init__(self, array: Array, factor: Array) -> None:
        self._array, self._factor = array, factor

    def into(self, out: Array, add: bool) -> None:
        if add:
            self._array *= self._factor
            out += self._array
        else:
            xp.multiply(self._array, self._factor, out=out)


class LinearCrossEntropy(Operation):
    """The losses of x @ weight.T + bias: (..., in), (V, in), (V,) -> () or (...).

    `rows` are the indices of the M of the N rows of x that count, None if all do; `targets` are
    theirs. The sum of the losses is divided by `divisor`.
    """

    def __init__(
        self, targets: loss.Targets, rows: Array | None, reduction: loss.Reduction, divisor: float
    ) -> None:
        self.targets, self.rows, self.reduction, self.divisor = targets, rows, reduction, divisor

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.weight = weight
        self.shape, flat = x.shape, x.reshape(-1, x.shape[-1])
        x = flat if self.rows is None else flat[self.rows]  # (M, in)
        count, vocabulary = len(x), len(self.weight)
        step = max(ROWS, block_size(LOGITS) // vocabulary)
        learns = True in self.needs
        self.whole = learns and self._fits(count, step)
        logits = xp.empty((count if self.whole else min(count, step), vocabulary), x.dtype)
        if learns and not self.whole:
            pairs = zip((x, weight, bias), self.needs, strict=False)
            self.sums = [
                xp.empty_like(each, order="C") if needed else None for each, needed in pairs
            ]
        losses = xp.empty(count, x.dtype)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            block = logits[rows] if self.whole else logits[: rows.stop - start]
            xp.matmul(x[rows], self.weight.T, out=block)
            if bias is not None:
                block += bias
            losses[rows] = self.targets.losses(block, rows, out=block)
            if learns:
                self.targets.differentiate(block, rows)
                if not self.whole:
                    self._add(block, x[rows], rows)
        if self.whole:
            self.x, self.slopes = x, logits
        if self.reduction == "none":
            return self._spread(losses).reshape(self.shape[:-1])
        losses *= in_dtype(1 / self.divisor, losses)
        return xp.asarray(losses.sum(), losses.dtype)

    def _fits(self, count: int, step: int) -> bool:
        """Whether the gradient of all logits is no larger than those of a block and the weight."""
        others = self.weight.size if self.needs[1] else 0
        fits = count * len(self.weight) <= step * len(self.weight) + others
        return fits or self.reduction == "none"

    def _add(self, slopes: Array, x: Array, rows: slice) -> None:
        """Compute the gradients from a block: the first writes, the others add."""
        to_x, to_weight, *to_bias = self.sums
        first = rows.start == 0
        if to_x is not None:
            xp.matmul(slopes, self.weight, out=to_x[rows])
        if to_weight is not None and first:
            xp.matmul(slopes.T, x, out=to_weight)
        elif to_weight is not None:
            add_product(to_weight, slopes.T, x)
        for bias in to_bias:
            if bias is not None:
                sums = column_sums(slopes)
                xp.copyto(bias, sums if first else sums + bias)

    def _spread(self, values: Array) -> Array:
        """The values of the rows that count, and zeros for the others: (M, ...) -> (N, ...)."""
        if self.rows is None:
            return values
        count = math.prod(self.shape[:-1])
        result = xp.zeros((count, *values.shape[1:]), values.dtype)
        result[self.rows] = values
        return result

    def backward(self, grad: Array) -> Gradients:
        if self.reduction != "none":
            factor = (grad * in_dtype(1 / self.divisor, grad)).reshape(1)
        else:
            factor = grad.reshape(-1) if self.rows is None else grad.reshape(-1)[self.rows]
        to_x, *others = self._from_slopes(factor) if self.whole else self._from_sums(factor)
        if to_x is not None:
            to_x = self._spread(to_x).reshape(self.shape)
        return to_x, *others

    def _from_slopes(self, factor: Array) -> list[Any]:
        """From the gradient of all logits, except for each row's factor (M,) or (1,), which is
        applied to narrower arrays."""
        to_x, to_weight, *to_bias = [None] * len(self.needs)
        if self.needs[0]:
            to_x = xp.matmul(self.slopes, self.weight)
            to_x *= factor[:, None]
        if self.needs[1]:
            to_weight = Product(self.slopes.T, self.x * factor[:, None])
        if self.needs[2:] == (True,):
            to_bias = [xp.matmul(xp.zeros_like(self.x[:, 0]) + factor, self.slopes)]
        return [to_x, to_weight, *to_bias]

    def _from_sums(self, factor: Array) -> list[Any]:
        to_x, to_weight, *to_bias = self.sums
        for own in (to_x, *to_bias):
            if own is not None:
                own *= factor
        return [to_x, None if to_weight is None else Scaled(to_weight, factor), *to_bias]


def linear_cross_entropy(
    x: Tensor,
    linear_weight: Tensor,
    targets: Tensor | Array,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | Array | None = None,
    reduction: loss.Reduction = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """token_cross_entropy(linear(x, linear_weight, linear_bias), targets), in less memory.

    (..., in), (V, in), (...) -> (), or (...) for "none". The logits (..., V) are held whole for
    "none", for targets that are probabilities, and where they take less memory than the weight's
    gradient. Raises what the two functions raise.
    """
    loss.check_options(reduction, label_smoothing)
    if x.shape[-1:] != linear_weight.shape[1:] or loss.are_probabilities(targets):
        logits = linear(x, linear_weight, linear_bias)
        options = (weight, ignore_index, reduction, label_smoothing)
        return loss.token_cross_entropy(logits, targets, *options)
    vocabulary = len(linear_weight)
    ids, classes = loss.checked(targets, weight, ignore_index, x.shape[:-1], vocabulary)
    rows = None
    if (ids == ignore_index).any():
        rows = np.flatnonzero(ids != ignore_index)
        ids = ids[rows]
    operation = LinearCrossEntropy(
        loss.ClassTargets(ids, label_smoothing, classes, vocabulary, x.dtype),
        None if rows is None else asarray(rows),
        reduction,
        loss.divisor_of(ids, classes, reduction),
    )
    own = () if linear_bias is None else (linear_bias,)
    return operation(x, linear_weight, *own)
