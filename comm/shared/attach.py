"""Cross-memory attach: reach another process's memory through the kernel, in one copy.

Linux lets a process read and write the memory of another of the same user (process_vm_readv,
process_vm_writev), where neither Yama nor a container's seccomp profile forbids it; so each group
tries it once, on a number that nobody can guess, and does without where one rank cannot. Chai, Lai,
Jin and Panda, "Designing an efficient kernel-level and user-level hybrid approach for MPI
intra-node communication on multi-core systems" (ICPP 2008), compare the kernel's one copy with two
through shared memory.

A rank that reads late, after the others have given up, sees data that nobody uses any more. Writing
needs the peer's permission: see `exposure`.
"""

import ctypes
import errno
import os
import secrets
import sys
from typing import Any

import numpy as np

from ringlet.comm.arrays import CACHE_LINE, Array, address_of
from ringlet.comm.errors import CommError

VARIABLE = "RINGLET_ATTACH"

MOST_BYTES = 256 << 20
"""No more in one call of the kernel, which cannot be interrupted."""

_GONE = (errno.ESRCH, errno.EFAULT)

_readv = _writev = None
if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)
    _readv = getattr(_libc, "process_vm_readv", None)
    _writev = getattr(_libc, "process_vm_writev", None)
for _function in filter(None, (_readv, _writev)):
    _function.restype = ctypes.c_ssize_t
    _function.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong,
        ctypes.c_ulong,
    )  # fmt: skip


class Vanished(Exception):
    """A process, or its array, is gone; the error that says why is still to come."""


class ProcessMemory:
    """The memory of a group's processes, by rank. For one call at a time."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self._ranges = (ctypes.c_size_t * 4)()  # two iovecs, here and there: address, length
        self._here = ctypes.addressof(self._ranges)
        self._there = self._here + ctypes.sizeof(self._ranges) // 2
        self._scratch = np.empty(0, np.uint8)

    def among(self, ranks: list[int]) -> "ProcessMemory":
        """The same for a group of some of the ranks."""
        return ProcessMemory([self.pids[rank] for rank in ranks])

    def read(self, rank: int, address: int, into: Array) -> None:
        """Copy the rank's memory into a contiguous array; raises as `copy`."""
        self.copy(rank, address, address_of(into), into.nbytes)

    def copy(self, rank: int, there: int, here: int, nbytes: int) -> None:
        """Copy bytes from an address in the rank's memory to one in this process's.

        Raises Vanished if they are gone, CommError if the kernel refuses.
        """
        self._move(_readv, rank, there, here, nbytes)

    def put(self, rank: int, there: int, here: int, nbytes: int) -> None:
        """The other way: copy what is here to the rank's memory, which must be exposed."""
        self._move(_writev, rank, there, here, nbytes)

    def lives(self, rank: int) -> bool:
        """Whether the rank's process still has a memory: a zombie has none."""
        assert _readv is not None
        self._ranges[0] = self._here
        self._ranges[1] = self._ranges[3] = 1
        self._ranges[2] = 0  # where nothing is
        found = _readv(self.pids[rank], self._here, 1, self._there, 1, 0)
        return found > 0 or ctypes.get_errno() != errno.ESRCH

    def _move(self, function: Any, rank: int, there: int, here: int, nbytes: int) -> None:
        pid, ranges, done = self.pids[rank], self._ranges, 0
        while done < nbytes:
            ranges[0], ranges[2] = here + done, there + done
            ranges[1] = ranges[3] = min(nbytes - done, MOST_BYTES)
            count = function(pid, self._here, 1, self._there, 1, 0)
            if count <= 0:
                raise self._failure(pid, count)
            done += count

    def _failure(self, pid: int, count: int) -> Exception:
        error = ctypes.get_errno()
        if count == 0 or error in _GONE:
            return Vanished()
        return CommError(
            f"cannot reach the memory of process {pid} any more: {os.strerror(error)}; "
            f"{VARIABLE}=0 does without"
        )

    def scratch(self, addresses: list[int], count: int, dtype: np.dtype[Any]) -> list[Array]:
        """Arrays of `count` elements to read into from these addresses, in the same memory at
        every call. Each is aligned to a cache line as its source is: the kernel's copy takes up to
        a half longer otherwise."""
        nbytes = count * dtype.itemsize
        cell = (-(-nbytes // CACHE_LINE) + 1) * CACHE_LINE
        if self._scratch.size < len(addresses) * cell + CACHE_LINE:
            self._scratch = np.empty(len(addresses) * cell + CACHE_LINE, np.uint8)
        first = -address_of(self._scratch) % CACHE_LINE
        starts = [first + k * cell + address % CACHE_LINE for k, address in enumerate(addresses)]
        return [self._scratch[start : start + nbytes].view(dtype) for start in starts]


def attach(group: Any) -> ProcessMemory | None:
    """Try whether every rank can reach every other's memory: a collective over messages.

    None, on all ranks, if one rank cannot.
    """
    cookie = np.frombuffer(secrets.token_bytes(32), np.uint8)
    answers = np.zeros(group.size, np.uint8)  # each rank writes its own, where it may
    places = [address_of(cookie), address_of(answers)]
    said = group.all_gather_object([os.getpid(), *places, cookie.tobytes()])
    able = os.environ.get(VARIABLE, "1") != "0" and None not in (_readv, _writev)
    processes = ProcessMemory([pid for pid, *_ in said])
    if able:
        seen, yes = np.empty_like(cookie), np.ones(1, np.uint8)
        try:
            for rank, (_, address, answer, right) in enumerate(said):
                processes.read(rank, address, seen)
                if seen.tobytes() != right:  # some other process of this number
                    able = False
                    break
                processes.put(rank, answer + group.rank, address_of(yes), 1)
        except (Vanished, CommError):
            able = False
    if not all(group.all_gather_object(able)):
        return None
    return processes if all(group.all_gather_object(bool(answers.all()))) else None
