"""A device, and how many seconds an operation takes on it.

Measured operators count as they were measured, and between two that differ in one length (or in
size, if they are no products) a straight line leads. Others follow the roofline (Williams et al.,
"Roofline", 2009) with efficiencies that step with size (Isaev et al., "Calculon", SC 2023):
max(FLOPs / (peak x efficiency), bytes / bandwidth) + what a kernel costs at least.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from statistics import fmean
from typing import NamedTuple, TypeAlias

from ringlet.runtime.planning.figures import (
    ClusterError,
    amounts,
    check,
    figure,
    steps,
    text,
    whole,
)

Line: TypeAlias = tuple[str, str, int, tuple[int, ...]]
"""Name, dtype, which length varies, and the others."""

FAR = 4
"""A line goes on for so many times its length."""


class Operation(NamedTuple):
    """One operation of a model on one device.

    | name | shape |
    |---|---|
    | linear, linear_inputs, linear_weights | rows, columns and inner length of the product |
    | attention, attention_backward | samples x heads, queries, keys, width of a head |
    | any other | its sizes |
    """

    name: str
    shape: tuple[int, ...]
    flops: float = 0.0
    nbytes: float = 0.0
    """Bytes that pass between memory and device."""

    kernels: int = 1
    """Programs that a GPU starts for it; on a CPU, calls."""

    passes: float = 0.0
    """Of nbytes, those that pass beside the products, one after the other (softmax, masks)."""


@dataclass(frozen=True)
class Measured:
    """Seconds of an operation as they were measured."""

    name: str
    shape: tuple[int, ...]
    seconds: float = figure(above=0.0)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        sizes = isinstance(self.shape, tuple) and all(isinstance(n, int) for n in self.shape)
        if not sizes or min(self.shape, default=1) < 1:
            raise ClusterError("shape must be whole numbers of at least 1")
        check(self)


@dataclass(frozen=True)
class Device:
    """A processor with its memory: a GPU, or a worker's share of a CPU."""

    memory: float = figure(above=0.0)
    """Bytes."""

    bandwidth: float = figure(above=0.0)
    """Bytes per second of memory that operations reach."""

    peak: Mapping[str, float] = amounts("FLOP/s", filled=True)
    """FLOP/s of products, by dtype."""

    name: str = text()
    efficiency: tuple[tuple[float, float], ...] = steps("efficiency", most=1.0, default=((0, 1.0),))
    """[[from FLOPs, part of the peak], ...] of a product."""

    attention: float = figure(default=0.0, most=1.0)
    """Part of the peak that attention's products reach; 0: as other products of their size."""

    tile: tuple[int, int] = (1, 1)
    """Rows and columns of the result that one unit computes at a time."""

    units: int = whole(default=1)
    """Units that compute tiles side by side; the last wave may be partly empty."""

    depth: float = figure(default=0.0)
    """A product of inner length k reaches k / (k + depth) of its efficiency."""

    rates: Mapping[str, float] = amounts("bytes per second")
    """Bytes per second of operations that are not products, by name; else the bandwidth."""

    kernel: float = figure(default=0.0)
    """Seconds that each kernel takes besides."""

    launch: float = figure(default=0.0)
    """Seconds for which the host is busy starting each kernel, while the device may compute: no
    sequence of kernels takes less than all of its launches."""

    operators: tuple[Measured, ...] = field(default=())
    """What was measured."""

    def __post_init__(self) -> None:
        check(self)
        sizes = self.tile if isinstance(self.tile, tuple) else ()
        if len(sizes) != 2 or not all(isinstance(n, int) and n >= 1 for n in sizes):
            raise ClusterError(f"tile is {self.tile!r}; it must be two whole numbers above 0")
        if self.efficiency[:1] and self.efficiency[0][0] != 0:
            raise ClusterError("efficiency must begin with a row from 0 FLOPs")
        if len(self._measured) < len(self.operators):
            keys = [(one.name, one.shape, one.dtype) for one in self.operators]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ClusterError(f"operators has {twice[0]} of {list(twice[1])} twice")

    @cached_property
    def _measured(self) -> dict[tuple[str, tuple[int, ...], str], float]:
        return {(one.name, one.shape, one.dtype): one.seconds for one in self.operators}

    def peak_of(self, dtype: str) -> float:
        """FLOP/s at this dtype; raises ClusterError if the device has none."""
        if dtype not in self.peak:
            raise ClusterError(
                f"device.peak has no {dtype}, in which the model computes; it has "
                f"{', '.join(self.peak)}"
            )
        return self.peak[dtype]

    def seconds(self, operation: Operation, dtype: str) -> float:
        """Seconds of one operation by itself."""
        known = self._measured.get((operation.name, operation.shape, dtype))
        if known is None and self.operators:
            known = self._between(operation.name, operation.shape, dtype)
        if known is not None:
            return known
        name, _, flops, nbytes, kernels, passes = operation
        moving = nbytes / self.rates.get(name, self.bandwidth)
        beside = passes / self.rates.get(f"{name}_passes", self.bandwidth)
        computing = 0.0
        if flops:
            computing = flops / (self.peak_of(dtype) * self._efficiency(operation))
        return max(computing, moving) + beside + kernels * self.kernel

    @cached_property
    def _lines(self) -> dict[Line, list[tuple[int, float]]]:
        """(length, seconds) of what was measured, the shortest first."""
        found: dict[Line, dict[int, list[float]]] = {}
        for one in self.operators:
            for line, length in lines_of(one.name, one.shape, one.dtype):
                found.setdefault(line, {}).setdefault(length, []).append(one.seconds)
        return {
            line: sorted((length, fmean(each)) for length, each in points.items())
            for line, points in found.items()
            if len(points) > 1
        }

    def _between(self, name: str, shape: tuple[int, ...], dtype: str) -> float | None:
        """Seconds as of the nearest two that were measured; None if none are near."""
        for line, length in lines_of(name, shape, dtype):
            points = self._lines.get(line, [])
            if not points or not points[0][0] / FAR <= length <= points[-1][0] * FAR:
                continue
            second = min(max(1, bisect_right(points, (length, 0.0))), len(points) - 1)
            (here, before), (there, after) = points[second - 1 : second + 1]
            seconds = before + (after - before) * (length - here) / (there - here)
            # Half of the work takes half of the time at least, and more work no less.
            return max(seconds, before * min(1.0, length / here))
        return None

    def sequence(self, operations: Iterable[Operation], dtype: str) -> float:
        """Seconds of operations one after the other: of all, or of their launches."""
        operations = tuple(operations)
        alone = sum(self.seconds(one, dtype) for one in operations)
        return max(alone, self.launch * sum(one.kernels for one in operations))

    def _efficiency(self, operation: Operation) -> float:
        shape = operation.shape
        if operation.name.startswith("attention") and self.attention:
            return self.attention
        starts = [start for start, _ in self.efficiency]
        share = self.efficiency[bisect_right(starts, operation.flops) - 1][1]
        if len(shape) != 3:
            return share
        rows, columns, inner = shape
        return share * _filled(rows, columns, self.tile, self.units) * inner / (inner + self.depth)


def lines_of(name: str, shape: tuple[int, ...], dtype: str) -> Iterable[tuple[Line, int]]:
    """The lines on which a shape lies, and how far along: of shapes of the same other lengths; for
    what is no product, of all sizes."""
    if len(shape) < 3:
        yield (name, dtype, -1, ()), math.prod(shape)
        return
    for place, length in enumerate(shape):
        yield (name, dtype, place, shape[:place] + shape[place + 1 :]), length


@lru_cache(maxsize=4096)
def _filled(rows: int, columns: int, tile: tuple[int, int], units: int) -> float:
    """The part of all units' tiles that the result fills, in as many waves as it takes."""
    tiles = -(-rows // tile[0]) * -(-columns // tile[1])
    return tiles / (-(-tiles // units) * units)
