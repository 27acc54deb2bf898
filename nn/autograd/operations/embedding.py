"""Rows of a table by index."""

import numpy as np

from ringlet.nn.autograd.conversion import host_array
from ringlet.nn.autograd.deferred import Deferred, Gradients
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray, chosen

__all__ = ["embedding"]


class RowSums(Deferred):
    """A table's gradient: each row's is the sum over its uses.

    The uses are sorted by row and summed in runs, in a fixed order; np.add.at would take many
    times as long.
    """

    def __init__(self, ids: Array, rows: Array) -> None:
        """`ids` (N,) are on the host, `rows` are (N, C); the table may have more axes."""
        self._ids, self._rows = ids, rows

    def into(self, out: Array, add: bool) -> None:
        if not add:
            out.fill(0)
        if not self._ids.size:
            return
        order = np.argsort(self._ids, kind="stable")
        ids = self._ids[order]
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        table = out.reshape(len(out), -1)
        rows = self._rows[asarray(order)]
        table[asarray(ids[starts])] += chosen().sum_runs(rows, starts)


class Embedding(Operation):
    """table[ids]: (V, C) -> (*ids.shape, C); the ids are on the host."""

    def __init__(self, ids: Array, padding: int | None) -> None:
        self.ids, self.padding = ids, padding

    def forward(self, table: Array) -> Array:
        return table[asarray(self.ids)]

    def backward(self, grad: Array) -> Gradients:
        ids, rows = self.ids.reshape(-1), grad.reshape(-1, grad.shape[-1])
        if self.padding is not None:
            learning = np.flatnonzero(ids != self.padding)
            ids, rows = ids[learning], rows[asarray(learning)]
        return (RowSums(ids, rows),)


def embedding(input: Tensor | Array, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """weight[ids]: ids (...), weight (V, C) -> (..., C).

    The row `padding_idx` (from the end if negative) gets no gradient. Raises IndexError naming an
    id that is out of range, TypeError if ids are not integers.
    """
    numbers = host_array(input)
    if weight.ndim != 2:
        raise ValueError(f"the weight of an embedding needs two axes; it has shape {weight.shape}")
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, not {numbers.dtype}")
    wrong = numbers[(numbers < 0) | (numbers >= weight.shape[0])]
    if wrong.size:
        raise IndexError(f"id {wrong[0]} is out of range for a vocabulary of {weight.shape[0]}")
    return Embedding(numbers, padding_row(padding_idx, weight.shape[0]))(weight)


def padding_row(padding_idx: int | None, rows: int) -> int | None:
    """The row counted from 0; raises ValueError if the table does not have it."""
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx is {padding_idx}; the table has {rows} rows")
    return padding_idx % rows
