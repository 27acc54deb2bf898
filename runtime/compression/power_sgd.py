"""Gradients of matrices as products of two thin ones, found by one step of a power iteration.

Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for distributed
optimization" (2019). With M the sum of the ranks' matrices (each with its residual added) and Q
that of the step before (algorithm 1):

    P = sum of M Q    P = its columns made orthonormal    Q = sum of M^T P    M is about P Q^T

Both sums are plain all-reduces, as M Q is linear in M. A rank's residual (algorithm 2) is its own
M - P (M^T P)^T; the ranks' residuals add up to what the sum has lost.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from ringlet.comm import Group
from ringlet.comm.arrays import overflow_allowed
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.random import generator
from ringlet.runtime.compression.collectives import Phases
from ringlet.runtime.compression.compressor import Compressor, GradientStretch, Matrices

SMALL_PRODUCT = 1_000_000
"""Multiplications of a product that OpenBLAS computes without packing its operands, which takes
several times as long as a product with a thin matrix."""


class Matrix(NamedTuple):
    """A parameter that is worth approximating; rows are its first axis, columns all others."""

    place: slice
    rows: int
    columns: int
    rank: int


class PowerSGD(Compressor):
    """Sums approximations of rank `rank`; vectors, and matrices too small to gain, exactly.

    All ranks get the same bits on the same processor and BLAS, as each multiplies P and Q.
    """

    name = "powersgd"

    def __init__(self, group: Group, rank: int, seed: int = 0) -> None:
        super().__init__(group)
        self.rank, self._seed = rank, seed
        self._q: dict[str, Array] = {}
        self._in_use: set[str] = set()

    def state(self) -> dict[str, Array]:
        """Q of each matrix, named by the matrix's place in the flat gradient."""
        return {name: q.copy() for name, q in self._q.items()}

    def load(self, state: Mapping[str, Array]) -> None:
        """Continue from a `state()`; for matrices that are not in it Q begins afresh."""
        if bad := [name for name in state if not name.isdecimal()]:
            raise ValueError(f"powersgd's state has places as names, not {sorted(bad)}")
        self._q = {name: np.array(q, np.float32) for name, q in state.items()}

    def _phases(self, stretch: GradientStretch) -> Phases:
        grad, residual, label = stretch.grad, stretch.residual, stretch.label
        large = worthwhile(stretch.matrices, self.rank)
        ends = [0, *(matrix.place.stop for matrix in large)]
        starts = [*(matrix.place.start for matrix in large), grad.size]
        rest = [slice(end, start) for end, start in zip(ends, starts, strict=True) if end < start]
        names = [str(stretch.place + matrix.place.start) for matrix in large]
        old = self._take(names, large)
        # First sum: each P, and what is not approximated.
        shapes = [(matrix.rows, matrix.rank) for matrix in large]
        vectors = [(part.stop - part.start,) for part in rest]
        buffer, views = _views([*shapes, *vectors], self.group.size)
        thin, plain = views[: len(large)], views[len(large) :]
        with overflow_allowed():
            for matrix, q, p in zip(large, old, thin, strict=True):
                for m, lost, rows in _blocks(matrix, grad, residual):
                    m += lost
                    np.matmul(m, q, out=p[rows])
            for part, vector in zip(rest, plain, strict=True):
                np.add(grad[part], residual[part], out=vector)
                residual[part] = 0
        yield stretch.group.all_reduce(buffer, async_op=True, label=label)
        for part, vector in zip(rest, plain, strict=True):
            grad[part] = vector
        if not large:
            return grad
        bases = [np.linalg.qr(p)[0] for p in thin]
        # Second sum: each Q.
        buffer, new = _views([(matrix.columns, matrix.rank) for matrix in large], self.group.size)
        with overflow_allowed():
            for matrix, p, q in zip(large, bases, new, strict=True):
                for m, _, rows in _blocks(matrix, grad, residual):
                    q += np.matmul(m.T, p[rows])
                for m, lost, rows in _blocks(matrix, grad, residual):
                    np.matmul(p[rows], q.T, out=lost)
                    np.subtract(m, lost, out=lost)
        yield stretch.group.all_reduce(buffer, async_op=True, label=label)
        with overflow_allowed():
            for matrix, name, p, q in zip(large, names, bases, new, strict=True):
                for m, _, rows in _blocks(matrix, grad, residual):
                    np.matmul(p[rows], q.T, out=m)
                self._q[name] = q.copy()
        self._in_use.difference_update(names)
        return grad

    def _take(self, names: list[str], large: list[Matrix]) -> list[Array]:
        """Each matrix's Q of the step before, or its first."""
        if twice := self._in_use.intersection(names):
            raise ValueError(
                f"the matrices at {sorted(twice)} of the flat gradient are already on their way: "
                "give each stretch its own place"
            )
        old = []
        for name, matrix in zip(names, large, strict=True):
            q, shape = self._q.get(name), (matrix.columns, matrix.rank)
            if q is None:
                q = generator(self._seed, "powersgd", name).standard_normal(shape, np.float32)
            if q.shape != shape:
                raise ValueError(
                    f"powersgd has a Q of {q.shape} for the matrix at {name} of the flat gradient, "
                    f"which needs {shape}: it comes from another layout or rank; load no state"
                )
            old.append(q)
        self._in_use.update(names)
        return old


def power_sgd_bytes(size: int, matrices: Matrices, rank: int, ranks: int) -> int:
    """Bytes that each rank sends in the two all-reduces, by rings."""
    large = worthwhile(matrices, rank)
    first = size + sum(m.rank * m.rows - m.rows * m.columns for m in large)
    second = sum(m.rank * m.columns for m in large)
    return sum(2 * (ranks - 1) * 4 * -(-floats // ranks) for floats in (first, second))


def worthwhile(matrices: Matrices, rank: int) -> list[Matrix]:
    """The parameters for which P and Q together are smaller, in order of their places."""
    found = []
    for start, stop, shape in sorted(matrices, key=lambda matrix: matrix[0]):
        if len(shape) < 2:
            continue
        rows, columns = shape[0], prod(shape[1:])
        thin = min(rank, rows, columns)
        if thin * (rows + columns) < rows * columns:
            found.append(Matrix(slice(start, stop), rows, columns, thin))
    return found


def _blocks(matrix: Matrix, grad: Array, residual: Array) -> Iterator[tuple[Array, Array, slice]]:
    """Some rows at a time of the matrix and of its residual, and which they are."""
    shape = matrix.rows, matrix.columns
    m, lost = grad[matrix.place].reshape(shape), residual[matrix.place].reshape(shape)
    count = max(1, SMALL_PRODUCT // (matrix.columns * matrix.rank))
    for start in range(0, matrix.rows, count):
        rows = slice(start, start + count)
        yield m[rows], lost[rows], rows


def _views(shapes: list[tuple[int, ...]], ranks: int) -> tuple[Array, list[Array]]:
    """One buffer for arrays of these shapes; all ranks send the same share of its length."""
    bounds = [0, *np.cumsum([prod(shape) for shape in shapes]).tolist()]
    buffer = np.zeros(-(-bounds[-1] // ranks) * ranks, np.float32)
    views = [
        buffer[start:stop].reshape(shape)
        for (start, stop), shape in zip(pairwise(bounds), shapes, strict=True)
    ]
    return buffer, views
