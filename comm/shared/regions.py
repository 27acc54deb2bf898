"""Registered memory: which arrays lie in segments that the peers have mapped as well."""

import bisect
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ringlet.comm.arrays import Array, address_of
from ringlet.comm.shared.segment import Segment

UNREGISTERED = (0, 0)


class Region(NamedTuple):
    """One allocation that all ranks of a group made together; `id` is the same on all."""

    id: int
    segments: dict[int, Segment]  # by world rank
    start: int  # address here
    stop: int


class Regions:
    """The registered memory of this process: each region for as long as arrays lie in it.

    When the last of them goes, this process's mappings go, too, of its own segment and its peers'.
    """

    def __init__(self) -> None:
        self._table: tuple[list[int], list[Region]] = [], []  # starts, regions: replaced as one
        self._lock = threading.Lock()
        self._without_arrays: deque[int] = deque()
        self._listeners: list[weakref.WeakMethod[Callable[[int], None]]] = []

    def tell(self, gone: Callable[[int], None]) -> None:
        """Call the method with the id of each region that goes."""
        with self._lock:
            listeners = [method for method in self._listeners if method() is not None]
            self._listeners = [*listeners, weakref.WeakMethod(gone)]

    def add(self, id: int, rank: int, segments: dict[int, Segment]) -> Array:
        """Register an allocation; returns this rank's bytes of it."""
        own = segments[rank]
        region = Region(id, segments, own.address, own.address + own.size)
        array = own.bytes  # the base of all arrays that will lie in the region
        with self._lock:
            self._replace([*self._table[1], region])
        weakref.finalize(array, self._forget, id).atexit = False
        self._sweep()
        return array

    def place(self, x: Array) -> tuple[int, int]:
        """(region, offset in bytes) of a contiguous array; UNREGISTERED for any other."""
        starts, regions = self._table
        if not regions or not x.flags.c_contiguous:
            return UNREGISTERED
        address = address_of(x)
        number = bisect.bisect(starts, address) - 1
        if number < 0 or address + x.nbytes > regions[number].stop:
            return UNREGISTERED
        region = regions[number]
        return region.id, address - region.start

    def view(self, id: int, rank: int, offset: int, like: Array) -> Array:
        """A world rank's array at the offset, as a flat array of the dtype and size of `like`."""
        region = next(region for region in self._table[1] if region.id == id)
        data = region.segments[rank].bytes[offset : offset + like.nbytes]
        return data.view(like.dtype)

    def _replace(self, regions: list[Region]) -> None:
        regions.sort(key=lambda region: region.start)
        self._table = [region.start for region in regions], regions

    def _forget(self, id: int) -> None:
        """No array lies in the region any more."""
        self._without_arrays.append(id)
        self._sweep()

    def _sweep(self) -> None:
        """Drop the regions without arrays. An array may go at any moment, also in a thread that
        holds the lock: then this is done once the lock is free."""
        while self._without_arrays and self._lock.acquire(blocking=False):
            try:
                gone = {self._without_arrays.popleft() for _ in range(len(self._without_arrays))}
                self._replace([region for region in self._table[1] if region.id not in gone])
                methods = [method() for method in self._listeners]
            finally:
                self._lock.release()
            for method in filter(None, methods):
                for id in gone:
                    method(id)
