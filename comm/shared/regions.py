"""Registered memory: which arrays lie in segments that the peers have mapped as well."""

import bisect
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
    """The registered memory of this process."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self._by_id: dict[int, Region] = {}

    def add(self, id: int, rank: int, segments: dict[int, Segment]) -> Array:
        """Register an allocation; returns this rank's bytes of it."""
        own = segments[rank]
        region = Region(id, segments, own.address, own.address + own.size)
        place = bisect.bisect(self._starts, region.start)
        self._starts.insert(place, region.start)
        self._regions.insert(place, region)
        self._by_id[id] = region
        return own.bytes

    def place(self, x: Array) -> tuple[int, int]:
        """(region, offset in bytes) of a contiguous array; UNREGISTERED for any other."""
        if not self._regions or not x.flags.c_contiguous:
            return UNREGISTERED
        address = address_of(x)
        number = bisect.bisect(self._starts, address) - 1
        if number < 0 or address + x.nbytes > self._regions[number].stop:
            return UNREGISTERED
        region = self._regions[number]
        return region.id, address - region.start

    def view(self, id: int, rank: int, offset: int, like: Array) -> Array:
        """A world rank's array at the offset, as a flat array of the dtype and size of `like`."""
        data = self._by_id[id].segments[rank].bytes[offset : offset + like.nbytes]
        return data.view(like.dtype)
