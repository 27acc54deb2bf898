"""Cross-memory attach: read another process's memory through the kernel, in one copy.

Linux lets a process read the memory of another of the same user (process_vm_readv), where neither
Yama nor a container's seccomp profile forbids it; so each board tries it once, on a number that
nobody can guess, and does without where one rank cannot. Chai, Lai, Jin and Panda, "Designing an
efficient kernel-level and user-level hybrid approach for MPI intra-node communication on
multi-core systems" (ICPP 2008), compare the kernel's one copy with two through shared memory.

Memory is only read: a rank that is late, after the others have given up, can see what it must
not believe, but never writes into memory that has another owner by then.
"""

import ctypes
import errno
import os
import secrets
import sys
from typing import Any

import numpy as np

from ringlet.comm.arrays import CACHE_LINE, address_of
from ringlet.comm.combine import Combiner, block_elements, ignoring
from ringlet.comm.errors import CommError
from ringlet.comm.wire import Array

VARIABLE = "RINGLET_ATTACH"

ATTACH_BYTES = 6 << 20
"""From here on one copy by the kernel, page by page, costs no more than two through the cache, and
far less where ranks wait for a core at each fence."""

MOST_BYTES = 256 << 20
"""No more in one call of the kernel, which cannot be interrupted."""

BLOCK_SHARES = 4
"""The blocks that are combined at once are so small a part of the cache. With two ranks and 2 MiB,
blocks of 128 KiB to 1 MiB take 2.05, 1.93, 2.07 and 2.3 ms for 16 MiB."""

_GONE = (errno.ESRCH, errno.EFAULT)

_readv = None
if sys.platform == "linux":
    _readv = getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
if _readv is not None:
    _readv.restype = ctypes.c_ssize_t
    _readv.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong,
        ctypes.c_ulong,
    )  # fmt: skip


class Vanished(Exception):
    """A process, or its array, is not there any more: its end will be heard of."""


class Attached:
    """The memory of a group's processes; `pids` by rank. For one call at a time."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self._ranges = (ctypes.c_size_t * 4)()  # two iovecs, here and there: address, length
        self._here = ctypes.addressof(self._ranges)
        self._there = self._here + ctypes.sizeof(self._ranges) // 2
        self._scratch = np.empty(0, np.uint8)

    def among(self, ranks: list[int]) -> "Attached":
        """The same for a group of some of the ranks."""
        return Attached([self.pids[rank] for rank in ranks])

    def read(self, rank: int, address: int, into: Array) -> None:
        """Copy the rank's memory into a contiguous array; raises as `copy`."""
        self.copy(rank, address, address_of(into), into.nbytes)

    def copy(self, rank: int, there: int, here: int, nbytes: int) -> None:
        """Copy so many bytes from an address in the rank's memory to one in this process's.

        Raises Vanished if they are gone, CommError if the kernel refuses.
        """
        assert _readv is not None
        pid, ranges, done = self.pids[rank], self._ranges, 0
        while done < nbytes:
            ranges[0], ranges[2] = here + done, there + done
            ranges[1] = ranges[3] = min(nbytes - done, MOST_BYTES)
            count = _readv(pid, self._here, 1, self._there, 1, 0)
            if count <= 0:
                raise self._failure(pid, count)
            done += count

    def _failure(self, pid: int, count: int) -> Exception:
        error = ctypes.get_errno()
        if count == 0 or error in _GONE:
            return Vanished()
        return CommError(
            f"cannot read the memory of process {pid} any more: {os.strerror(error)}; "
            f"{VARIABLE}=0 does without"
        )

    def scratch(self, addresses: list[int], count: int, dtype: np.dtype[Any]) -> list[Array]:
        """Arrays of so many elements to read into from these addresses; in the same memory at
        every call. Each lies as its source does in its cache line: the kernel's copy takes up to
        a half longer otherwise."""
        nbytes = count * dtype.itemsize
        cell = (-(-nbytes // CACHE_LINE) + 1) * CACHE_LINE
        if self._scratch.size < len(addresses) * cell + CACHE_LINE:
            self._scratch = np.empty(len(addresses) * cell + CACHE_LINE, np.uint8)
        first = -address_of(self._scratch) % CACHE_LINE
        starts = [first + k * cell + address % CACHE_LINE for k, address in enumerate(addresses)]
        return [self._scratch[start : start + nbytes].view(dtype) for start in starts]


class AttachedCombiner:
    """Combines a piece of the array of this rank with the other ranks', which lie in their
    processes; for pieces of a dtype. The Python is short: all that it needs, the arrays have
    driven out of the cache."""

    def __init__(self, attached: Attached, rank: int, op: str | None, dtype: np.dtype[Any]) -> None:
        size = len(attached.pids)
        self._attached, self._rank, self._dtype = attached, rank, dtype
        self._peers = [peer for peer in range(size) if peer != rank]
        self._step = block_elements(dtype.itemsize, BLOCK_SHARES * size)
        self._combine = Combiner(op, dtype, size, self._step)
        self._places: list[int] = []  # of the peers' pieces in their cache lines
        self._cells: list[Array] = []
        self._reads: list[tuple[int, int]] = []

    def __call__(self, out: Array, mine: Array, starts: list[int]) -> None:
        """out = the pieces in the order of ranks, combined; theirs begin at `starts`."""
        step, item, copy, combine = self._step, mine.itemsize, self._attached.copy, self._combine
        self._find_cells(starts)
        with ignoring():
            for start in range(0, mine.size, step):
                sources = [mine[start : start + step]]
                count = sources[0].size
                for (peer, here), cell in zip(self._reads, self._cells, strict=True):
                    copy(peer, starts[peer] + start * item, here, count * item)
                    sources.insert(peer, cell[:count])
                combine(out[start : start + step], sources)

    def _find_cells(self, starts: list[int]) -> None:
        places = [starts[peer] % CACHE_LINE for peer in self._peers]
        if places != self._places:
            self._places = places
            self._cells = self._attached.scratch(places, self._step, self._dtype)
            self._reads = [
                (peer, address_of(cell))
                for peer, cell in zip(self._peers, self._cells, strict=True)
            ]


def attach(group: Any) -> Attached | None:
    """Try whether every rank can read every other's memory; None, on all ranks, if one cannot.

    A collective over messages.
    """
    cookie = np.frombuffer(secrets.token_bytes(32), np.uint8)
    said = group.all_gather_object([os.getpid(), address_of(cookie), cookie.tobytes()])
    able = os.environ.get(VARIABLE, "1") != "0" and _readv is not None
    attached = Attached([pid for pid, _, _ in said])
    if able:
        seen = np.empty_like(cookie)
        try:
            for rank, (_, address, right) in enumerate(said):
                attached.read(rank, address, seen)
                able = able and seen.tobytes() == right
        except (Vanished, CommError):
            able = False
    return attached if all(group.all_gather_object(able)) else None
