"""A piece of memory that processes of one host share.

A segment is a file in /dev/shm with a random name that only its owner may open (mode 0600). It
is unlinked as soon as all have attached: when its last process ends, however it ends, it is gone.
"""

import contextlib
import mmap
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.comm.wire import Array

FOLDER = Path("/dev/shm")
PREFIX = "ringlet-"


class Segment:
    """`size` bytes, mapped here. Make one with `create`, or with `attach` by its name."""

    def __init__(self, name: str, descriptor: int, size: int) -> None:
        self.name, self.size = name, size
        self.memory = mmap.mmap(descriptor, size)
        self.bytes: Array = np.frombuffer(self.memory, np.uint8)

    @classmethod
    def create(cls, size: int) -> "Segment":
        """A new segment of zeros; raises OSError if there is no room for it."""
        name = PREFIX + secrets.token_hex(12)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(FOLDER / name, flags, 0o600)
        try:
            # Reserved, not only announced: a page that is not there later would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, size)
            return cls(name, descriptor, size)
        except BaseException:
            (FOLDER / name).unlink()
            raise
        finally:
            os.close(descriptor)

    @classmethod
    def attach(cls, name: str, size: int) -> "Segment":
        """Map another process's segment; raises OSError if it cannot be reached or is too small."""
        if not name.startswith(PREFIX) or "/" in name:
            raise OSError(f"{name!r} is no name of a segment")
        descriptor = os.open(FOLDER / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size != size:
                raise OSError(f"segment {name} has another size than announced")
            return cls(name, descriptor, size)
        finally:
            os.close(descriptor)

    def unlink(self) -> None:
        """Remove the name; the memory stays while somebody has it mapped."""
        with contextlib.suppress(FileNotFoundError):
            (FOLDER / self.name).unlink()

    @property
    def address(self) -> int:
        """Where the memory begins in this process."""
        address: int = self.bytes.ctypes.data
        return address


def share(group: Any, size: int) -> list[Segment] | None:
    """Give every rank of a group a segment of `size` bytes that all have mapped; by rank.

    A collective over messages. None, on all ranks, if one rank cannot make or reach them: they
    are on different hosts, or in containers that have no /dev/shm in common, or it is full.
    """
    own: Segment | None
    try:
        own = Segment.create(size)
    except OSError:
        own = None
    try:
        names = group.all_gather_object("" if own is None else own.name)
        attached = _attach_all(names, group.rank, own, size)
        everybody = all(group.all_gather_object(attached is not None))
    finally:
        if own is not None:
            own.unlink()
    return attached if everybody else None


def _attach_all(
    names: list[str], rank: int, own: Segment | None, size: int
) -> list[Segment] | None:
    try:
        return [
            own if other == rank and own is not None else Segment.attach(name, size)
            for other, name in enumerate(names)
        ]
    except OSError:
        return None
