"""Error feedback: gradients are summed in fewer bytes, and what that loses is not forgotten.

Seide, Fu, Droppo, Li and Yu, "1-bit stochastic gradient descent and its application to
data-parallel distributed training of speech DNNs" (2014): what compression loses in one step is
added to the gradient of the next. Karimireddy, Rebjock, Stich and Jaggi, "Error feedback fixes
SignSGD and other gradient compression schemes" (2019): so even a biased compressor converges as
fast as none, up to terms of higher order.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.compression.codecs import Codec
from ringlet.runtime.compression.collectives import (
    PhasedWork,
    Phases,
    add_residual,
    sum_encoded,
)
from ringlet.runtime.compression.packing import PackedGroup
from ringlet.runtime.device_collectives import Pending, Ready

Matrices: TypeAlias = Sequence[tuple[int, int, tuple[int, ...]]]
"""(start, stop, shape) of each parameter, relative to its stretch."""

BEHIND = 2
"""A stretch begins its second phase when this many later ones have begun their first. The network
has work while this thread waits, and backward can hide both phases."""


class GradientStretch(NamedTuple):
    """A part of the flat gradient, with this rank's residual of it."""

    grad: Array  # (size,): the sum goes here
    residual: Array  # (size,): to be added to grad first; then what is lost goes here
    matrices: Matrices
    place: int
    label: str
    group: Group


class Compressor(ABC):
    """Sums stretches of the flat gradient in fewer bytes; keeps what is lost for the next step.

    All ranks start the same stretches in the same order, and wait for them in that order, at the
    same points of their order of calls. Residuals begin as zeros. They are this rank's own and
    part of the state of training, as is `state()`. The sum, together with all ranks' residuals, is
    what plain summing would have given, up to rounding.
    """

    name: str

    def __init__(self, group: Group) -> None:
        self.group = group
        self.lanes: Sequence[Group] = [group]  # of the same ranks; stretches take them in turns
        self._started = 0
        self._queue: deque[PhasedWork] = deque()

    def start(
        self,
        grad: Array,
        residual: Array,
        matrices: Matrices = (),
        *,
        place: int = 0,
        label: str = "",
    ) -> Pending:
        """Start to sum `grad` over the group; after `wait()` the sum is in `grad`.

        Both are 1-D, contiguous, float32 and equally long, and must not be touched before `wait()`
        returns; `residual` is added to `grad` first, and then holds what was lost. `place`, the
        start of the stretch in the flat gradient, identifies it from step to step. A gradient that
        is not finite gives a sum that is not finite, and spoils the residual too. On one rank
        nothing is lost. Raises ValueError for arrays or matrices that do not fit together.
        """
        _check(grad, residual, matrices)
        if self.group.size == 1 or grad.size == 0:
            add_residual(grad, residual)
            residual.fill(0)
            return Ready(grad)
        lane = self.lanes[self._started % len(self.lanes)]
        self._started += 1
        stretch = GradientStretch(grad, residual, matrices, place, label, lane)
        work = PhasedWork(self._phases(stretch))
        self._queue.append(work)
        if len(self._queue) > BEHIND:
            self._queue[-1 - BEHIND].reach(2)
        return _QueuedWork(self._queue, work)

    @abstractmethod
    def _phases(self, stretch: GradientStretch) -> Phases:
        """Sum the stretch; the group has several ranks, and the stretch is not empty."""

    def state(self) -> dict[str, Array]:
        """What the next step needs besides the residuals; the same on every rank."""
        return {}

    def load(self, state: Mapping[str, Array]) -> None:
        """Continue from a `state()`; raises ValueError if it is another kind of compressor's."""
        if state:
            raise ValueError(f"{self.name} has no state of its own, but is given {sorted(state)}")


class CodecCompressor(Compressor):
    """Sums gradients as 16-bit or 8-bit numbers, with error feedback at both encodings.

    Of two ranks each loses something of what it sends. Of more, a rank loses something where it
    encodes the other ranks' parts of its contribution, and where it encodes the sum of its own
    part. These are different elements, so one residual holds both
    (the worker's and the server's of Tang et al., "DoubleSqueeze: parallel stochastic gradient
    descent with double-pass error-compensated compression", 2019).

    `packed`, which all ranks give alike, has numbers of 16 bits travel in fewer (packing.py).
    """

    def __init__(self, group: Group, codec: Codec, packed: bool = False) -> None:
        super().__init__(group)
        self.codec, self.name, self.packed = codec, codec.name, packed

    def _phases(self, stretch: GradientStretch) -> Phases:
        grad, residual, label = stretch.grad, stretch.residual, stretch.label
        group = PackedGroup(stretch.group) if self.packed else stretch.group
        return sum_encoded(group, grad, self.codec, residual, label=label)


class _QueuedWork:
    """A stretch that waits for those before it, and keeps those behind it moving."""

    def __init__(self, queue: deque[PhasedWork], work: PhasedWork) -> None:
        self._queue, self._work = queue, work

    def wait(self) -> Array:
        while not self._work.ended:
            # The next stretches' second collectives run while this one's is decoded.
            for work in islice(self._queue, 1 + BEHIND):
                work.reach(2)
            self._queue[0].wait()
            self._queue.popleft()
        return self._work.wait()


def redistribute(residuals: Iterable[Array], size: int) -> Array:
    """The residual of each of `size` ranks that continue from others': an equal part of their sum.

    Nothing that was lost is forgotten, and nothing counts twice.
    """
    total: Array | None = None
    for residual in residuals:
        total = residual.astype(np.float32) if total is None else np.add(total, residual, out=total)
    if total is None:
        raise ValueError(f"0 residuals cannot be spread over {size} ranks")
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
