"""Sums of gradients in fewer bytes, with a memory of what was lost: error feedback.

Seide, Fu, Droppo, Li and Yu, "1-bit stochastic gradient descent and its application to
data-parallel distributed training of speech DNNs" (2014): what compression loses in one step is
added to the gradient of the next. Karimireddy, Rebjock, Stich and Jaggi, "Error feedback fixes
SignSGD and other gradient compression schemes" (2019): so that even a biased compressor converges
as fast as none, up to terms of higher order.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.compression.flight import Flight, Phases
from ringlet.runtime.device_collectives import Pending, Ready

Matrices: TypeAlias = Sequence[tuple[int, int, tuple[int, ...]]]
"""(start, stop, shape) of each parameter, relative to its stretch."""

BEHIND = 2
"""A stretch begins its second phase when so many later ones have begun their first: the network
has work while this thread waits, and what can be hidden behind backward is both phases."""


class Stretch(NamedTuple):
    """A part of the flat gradient, with this rank's memory of it."""

    grad: Array  # (size,): gradient and memory added; the sum goes here
    residual: Array  # (size,): what is lost goes here
    matrices: Matrices
    place: int
    label: str


class Compressor(ABC):
    """Sums a stretch of the flat gradient over a group, in fewer bytes; keeps what was lost for
    the next step.

    All ranks start the same stretches in the same order, and wait for them in that order, at the
    same points of their order of calls. Residuals begin as zeros. They are this rank's own, and
    part of the state of training, as is `state()`. The sum, together with all ranks' residuals, is
    what plain summing would have given, but for rounding.
    """

    name: str

    def __init__(self, group: Group) -> None:
        self.group = group
        self._flights: deque[Flight] = deque()

    def start(
        self,
        grad: Array,
        residual: Array,
        matrices: Matrices = (),
        *,
        place: int = 0,
        label: str = "",
    ) -> Pending:
        """Begin to sum `grad` over the group; after `wait()` the sum is in `grad`.

        Both are 1-D, contiguous, float32 and equally long, and not to be touched before `wait()`
        returns; `residual` is added to `grad` first, and then holds what was lost. `place`, where
        the stretch begins in the whole flat gradient, is its name from step to step. A gradient
        that is not finite gives a sum that is not finite, and spoils the residual too. On one
        rank nothing is lost. Raises ValueError for arrays or matrices that do not fit together.
        """
        _check(grad, residual, matrices)
        with np.errstate(over="ignore", invalid="ignore"):
            grad += residual
        if self.group.size == 1 or grad.size == 0:
            residual.fill(0)
            return Ready(grad)
        flight = Flight(self._phases(Stretch(grad, residual, matrices, place, label)))
        self._flights.append(flight)
        if len(self._flights) > BEHIND:
            self._flights[-1 - BEHIND].reach(2)
        return _Turn(self._flights, flight)

    @abstractmethod
    def bytes_sent(self, size: int, matrices: Matrices = ()) -> int:
        """Exactly how many bytes each rank sends to sum a stretch of `size` elements."""

    @abstractmethod
    def _phases(self, stretch: Stretch) -> Phases:
        """Sum the stretch; the group has several ranks, and the stretch is not empty."""

    def state(self) -> dict[str, Array]:
        """What the next step needs besides the residuals; the same on every rank."""
        return {}

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from a `state()`; raises ValueError if it is of another kind of compressor."""
        if state:
            raise ValueError(f"{self.name} has no state of its own, but is given {sorted(state)}")


class _Turn:
    """A stretch that waits for those before it, and sees to it that those behind it move."""

    def __init__(self, flights: deque[Flight], flight: Flight) -> None:
        self._flights, self._flight = flights, flight

    def wait(self) -> Array:
        """See Pending."""
        while not self._flight.ended:
            # The next stretches' second collectives run while this one's is decoded.
            for flight in islice(self._flights, 1 + BEHIND):
                flight.reach(2)
            self._flights[0].wait()
            self._flights.popleft()
        result: Array = self._flight.wait()
        return result


def redistribute(residuals: Sequence[Array], size: int) -> Array:
    """The residual of each of `size` ranks that go on from others': equal parts of their sum.

    Nothing of what was lost is forgotten, and nothing counted twice.
    """
    if not residuals or size < 1:
        raise ValueError(f"{len(residuals)} residuals cannot be spread over {size} ranks")
    total = residuals[0].astype(np.float32)
    for residual in residuals[1:]:
        total += residual
    total /= size
    return total


def _check(grad: Array, residual: Array, matrices: Matrices) -> None:
    for name, array in (("gradient", grad), ("residual", residual)):
        if array.dtype != np.float32 or array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(
                f"the {name} must be a contiguous float32 array of one dimension, "
                f"not {array.dtype} {array.shape}"
            )
    if grad.size != residual.size:
        raise ValueError(f"a gradient of {grad.size} elements has a residual of {residual.size}")
    end = 0
    for start, stop, shape in sorted(matrices, key=lambda matrix: matrix[0]):
        if not end <= start <= stop <= grad.size or prod(shape) != stop - start:
            raise ValueError(
                f"no parameter of shape {shape} fits at {start}:{stop} "
                f"of a stretch of {grad.size} elements of which {end} are taken"
            )
        end = stop
