"""Adafactor: Adam's second moments, factored into a row and a column for each matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ringlet.nn.backend import Array, xp
from ringlet.nn.flat import Flat, Slot
from ringlet.nn.optim.optimizer import Decay, Group, Update, everything
from ringlet.nn.optim.parameters import PyTorch
from ringlet.nn.optim.whole import WholeParameters

__all__ = ["Adafactor"]


@dataclass(eq=False)
class Adafactor(WholeParameters):
    """Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost" (2018),
    algorithm 4, as PyTorch defines it.

    `learning_rate` bounds the relative step, which becomes 1 / sqrt(steps) and is multiplied by the
    parameter's root mean square (at least `eps[1]`). `eps[0]` None means that of the dtype. The
    state has an element for each parameter; a matrix uses one for each row and column, and the
    others are never touched and take no memory.
    """

    STATE = ("variance",)
    flat: Flat
    learning_rate: float = 1e-2
    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    clip: float = 1.0
    weight_decay: float = 0.0
    decay: Decay = everything
    groups: Sequence[Group] = ()

    PYTORCH = PyTorch(
        {"lr": 1e-2, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "weight_decay": 0.0},
        fields={"d": "clip"},
    )

    def parts(self, slot: Slot) -> dict[str, Array]:
        kept = self.state["variance"][slot.start : slot.stop]
        if not _is_factored(slot.shape):
            return {"variance": kept.reshape(slot.shape)}
        row, column = _factors(kept, slot.shape)
        return {"row_var": row, "col_var": column}

    def update_whole(self, whole: Update) -> None:
        data, grad, rate = whole.data, whole.grad, whole.rate
        tiny = float(np.finfo(data.dtype).eps) if self.eps[0] is None else self.eps[0]
        size = max(self.eps[1], _root_mean_square(data))
        whole.decay_data()
        change = self._variance(grad, whole.state[0], tiny)
        xp.maximum(change, tiny * tiny, out=change)
        xp.sqrt(change, out=change)
        xp.divide(grad, change, out=change)
        clipped = max(1.0, _root_mean_square(change) / self.clip)
        change *= min(rate, 1 / math.sqrt(self.steps)) * size / clipped
        data -= change

    def _variance(self, grad: Array, kept: Array, tiny: float) -> Array:
        """The running mean of the gradient's squares after this gradient, as a new array."""
        fresh = self.steps**self.beta2_decay
        square = grad * grad
        if not _is_factored(grad.shape):
            kept += fresh * (square.reshape(-1) - kept)
            return kept.reshape(grad.shape).copy()
        row, column = _factors(kept, grad.shape)
        row += fresh * (square.mean(axis=-1, keepdims=True) - row)
        column += fresh * (square.mean(axis=-2, keepdims=True) - column)
        xp.multiply(row, column, out=square)
        square /= xp.maximum(row.mean(axis=-2, keepdims=True), tiny)
        return square


def _is_factored(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and min(shape[-2:]) > 1  # otherwise it would save nothing


def _factors(kept: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The means of each matrix's rows (..., rows, 1) and columns (..., 1, columns)."""
    *batch, rows, columns = shape
    count = math.prod(batch)
    row = kept[: count * rows].reshape(*batch, rows, 1)
    return row, kept[count * rows : count * (rows + columns)].reshape(*batch, 1, columns)


def _root_mean_square(x: Array) -> float:
    flat = x.reshape(-1)
    return math.sqrt(float(xp.dot(flat, flat)) / max(1, flat.size))
