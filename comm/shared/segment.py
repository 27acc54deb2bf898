"""A piece of memory that processes of one host share.

A segment is a file in /dev/shm that never has a name, so it is gone when its last process ends,
however that ends. Other processes reach it through /proc/PID/fd of the one that made it, which only
its user can open. Once all have mapped it, nobody keeps a descriptor (Python's mmap would, for as
long as it lives).

Its memory is in huge pages where Linux has them (madvise(2), MADV_COLLAPSE, from 6.1 on): systems
seldom give them to shared memory by themselves.
"""

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.comm.arrays import Array

FOLDER = Path("/dev/shm")

HUGE_BYTES = 2 << 20
_COLLAPSE = 25

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value


class Segment:
    """`size` bytes, mapped into this process while a segment or an array refers to them. Make one
    with `create`, or `attach` to another's."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size, self._descriptor = size, -1
        self.address = _map(descriptor, size)
        self._mapping = (ctypes.c_ubyte * size).from_address(self.address)
        unmap = weakref.finalize(self._mapping, _libc.munmap, self.address, size)
        unmap.atexit = False

    @property
    def bytes(self) -> Array:
        """All of it, as an array."""
        return np.frombuffer(memoryview(self._mapping), np.uint8)

    @classmethod
    def create(cls, size: int) -> "Segment":
        """A new segment of zeros, which others can attach until `close`; raises OSError if there is
        no room."""
        if not hasattr(os, "O_TMPFILE"):
            raise OSError("only Linux has files without names")
        descriptor = os.open(FOLDER, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            segment = cls(descriptor, size)
            segment._use_huge_pages(descriptor)
            # Reserve the memory: a page that is missing later would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, size)
        except BaseException:
            os.close(descriptor)
            raise
        segment._descriptor = descriptor
        return segment

    @classmethod
    def attach(cls, place: list[int], size: int) -> "Segment":
        """Map another process's segment; raises OSError if it cannot be reached."""
        process, number, *identity = place
        path = Path(f"/proc/{process}/fd/{number}")
        # In another container the number may be a different process's: check before opening.
        if _identity(path.stat()) != [*identity, size]:
            raise OSError(f"{path} is not the announced segment")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(descriptor, size)
        finally:
            os.close(descriptor)

    def _use_huge_pages(self, descriptor: int) -> None:
        """Make them of one small page each, while there are no others to copy; or leave it."""
        huge = range(0, self.size - HUGE_BYTES + 1, HUGE_BYTES)
        for start in huge:
            os.pwrite(descriptor, bytes(1), start)
        _libc.madvise(self.address, len(huge) * HUGE_BYTES, _COLLAPSE)

    @property
    def place(self) -> list[int]:
        """For `attach`: process, descriptor, device and inode."""
        *identity, _ = _identity(os.fstat(self._descriptor))
        return [os.getpid(), self._descriptor, *identity]

    def close(self) -> None:
        """All have attached. The memory stays while a process has it mapped."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _map(descriptor: int, size: int) -> int:
    """Map the file; a long one where its huge pages can be mapped as such."""
    wanted = None
    if size >= HUGE_BYTES:  # an address in a gap that is long enough
        room = size + HUGE_BYTES
        gap = _libc.mmap(None, room, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        if gap != _FAILED:
            _libc.munmap(gap, room)
            wanted = -(-gap // HUGE_BYTES) * HUGE_BYTES
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    address: int = _libc.mmap(wanted, size, protection, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), f"cannot map {size} bytes of shared memory")
    return address


def share(group: Any, size: int) -> list[Segment] | None:
    """Give every rank of a group a segment of `size` bytes that all have mapped; returns them by
    rank.

    A collective over messages. Returns None, on all ranks, if one of them cannot make or reach a
    segment: they are on different hosts, in containers that do not see each other's processes, or
    /dev/shm is full.
    """
    own: Segment | None
    try:
        own = Segment.create(size)
    except OSError:
        own = None
    try:
        places = group.all_gather_object([] if own is None else own.place)
        attached = _attach_all(places, group.rank, own, size)
        everybody = all(group.all_gather_object(attached is not None))
    finally:
        if own is not None:
            own.close()
    return attached if everybody else None


def _attach_all(
    places: list[list[int]], rank: int, own: Segment | None, size: int
) -> list[Segment] | None:
    try:
        return [
            own if other == rank and own is not None else Segment.attach(place, size)
            for other, place in enumerate(places)
        ]
    except (OSError, ValueError):
        return None


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size]
