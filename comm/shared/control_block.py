"""The board: a group's shared memory on one host, and the fences at which its ranks meet.

Each rank writes its own words, and everybody reads all of them. A segment begins with a counter,
the rank's *phase*: at a fence a rank advances its own and waits until nobody's is behind. With it
stand the rank's present call and where its data lies, so that ranks that meet in different calls
see it at once; then come two areas for staging, used in turns.

The counters rely on stores becoming visible in the order in which they were made, which x86
guarantees to Python code and other processors do not. (memcpy's streaming stores, which do not
keep the order, end with a store fence.)
"""

import os
import platform
import time
from typing import Any

from ringlet.comm.shared import futex
from ringlet.comm.shared.attach import ATTACH_BYTES, SHARE_BYTES, Attached, attach
from ringlet.comm.shared.segment import Segment, share
from ringlet.comm.sockets.wire import Array

STAGE_BYTES = 512 << 10
"""Two ranks' chunks of an all-reduce are half of this: what is staged stays in the cache."""

_STAGE_AT = 4096
_SIZE = _STAGE_AT + 2 * STAGE_BYTES

# Words of 8 bytes; what one rank writes often and others read stands on a cache line of its own.
_PHASE, _ASLEEP, _CALL = 0, 16, 32
_CALL_WORDS = 5  # call, region, offset, length of the note, address; twice, used in turns
_LENT, _WRITING = 48, 49  # see `loan`

NOTE_BYTES = 1024
_NOTE_AT = 1024

SPIN_S = 20e-6
YIELD_S = 1e-3


class Board:
    """One group's shared memory. `phases` etc. are indexed by the rank in the group."""

    def __init__(self, segments: list[Segment], rank: int) -> None:
        self.rank, self.size = rank, len(segments)
        self.ranks = tuple(range(self.size))  # in the world
        self.attached: Attached | None = None  # where ranks can reach each other's whole memory
        self.attach_from = ATTACH_BYTES
        self._segments = segments
        self._words = [memoryview(segment.memory).cast("Q") for segment in segments]
        self._others = [words for r, words in enumerate(self._words) if r != rank]
        self._mine = self._words[rank]
        self._address = segments[rank].address
        self.phase = self._call_turn = self._area_turn = 0
        # With a core for each rank, waiting in a loop is the fastest; with fewer, whoever is
        # waited for may need this very core.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._spin = SPIN_S if self.size <= cores else 0.0
        self._yield = YIELD_S if self.size <= cores else 50e-6

    # -- fences -------------------------------------------------------------------------------

    def arrive(self) -> int:
        """Advance this rank's phase, which publishes what it wrote before; returns the phase."""
        self.phase = phase = self.phase + 1
        self._mine[_PHASE] = phase
        for words in self._others:
            if words[_ASLEEP]:
                futex.wake(self._address)
                break
        return phase

    def complete(self, phase: int) -> bool:
        """Whether every rank has reached the phase."""
        return all(words[_PHASE] >= phase for words in self._others)

    def behind(self, phase: int) -> list[int]:
        """The ranks that have not reached the phase."""
        return [rank for rank, words in enumerate(self._words) if words[_PHASE] < phase]

    def watch(self, phase: int) -> bool:
        """Wait for the others without sleeping, for a very short time; whether all came."""
        others = self._others
        if self._spin:
            until = time.perf_counter() + self._spin
            while time.perf_counter() < until:
                for words in others:
                    if words[_PHASE] < phase:
                        break
                else:
                    return True
        until = time.perf_counter() + self._yield
        while time.perf_counter() < until:
            if self.complete(phase):
                return True
            os.sched_yield()
        return self.complete(phase)

    def sleep(self, phase: int, seconds: float) -> None:
        """Sleep until the first rank that is behind moves, or for so long at most."""
        for rank, words in enumerate(self._words):
            present = words[_PHASE]
            if present < phase:
                self._mine[_ASLEEP] = 1
                # The kernel compares once more: a step taken just now is not slept through.
                futex.wait(self._segments[rank].address, present, seconds)
                self._mine[_ASLEEP] = 0
                return

    # -- what ranks say at a fence ------------------------------------------------------------

    def announce(self, call: int, region: int, offset: int, address: int = 0) -> int:
        """Write down this rank's call (a hash) and where its array lies, before a fence.

        `region` and `offset` are for all ranks, `address` is this process's: what lies there is
        lent to the others for this call.

        Returns the turn under which to read the others' after the fence.
        """
        self._call_turn ^= 1
        at = _CALL + self._call_turn * _CALL_WORDS
        self._mine[at], self._mine[at + 1], self._mine[at + 2] = call, region, offset
        self._mine[at + 4] = address
        self.lend(call if address else 0)
        return self._call_turn

    def write_note(self, text: bytes) -> None:
        """Leave a short note to be read after the next call's first fence."""
        turn = self._call_turn ^ 1
        start = _NOTE_AT + turn * NOTE_BYTES
        self._mine[_CALL + turn * _CALL_WORDS + 3] = len(text)
        self._segments[self.rank].memory[start : start + len(text)] = text

    def read_note(self, rank: int, turn: int) -> bytes:
        """A rank's note of this turn."""
        start = _NOTE_AT + turn * NOTE_BYTES
        length = self._words[rank][_CALL + turn * _CALL_WORDS + 3]
        return bytes(self._segments[rank].memory[start : start + min(length, NOTE_BYTES)])

    def agree(self, call: int, turn: int) -> bool:
        """Whether every rank is in this call."""
        at = _CALL + turn * _CALL_WORDS
        return all(words[at] == call for words in self._others)

    def calls(self, turn: int) -> list[int]:
        """Every rank's call."""
        at = _CALL + turn * _CALL_WORDS
        return [words[at] for words in self._words]

    def places(self, turn: int) -> list[tuple[int, int]]:
        """Every rank's region and offset."""
        at = _CALL + turn * _CALL_WORDS
        return [(words[at + 1], words[at + 2]) for words in self._words]

    def addresses(self, turn: int) -> list[int]:
        """Where every rank's array lies in its own process."""
        at = _CALL + turn * _CALL_WORDS
        return [words[at + 4] for words in self._words]

    # -- loans --------------------------------------------------------------------------------

    def lend(self, call: int) -> None:
        """Let the others write into this rank's array in this call; in none, if it is 0."""
        self._mine[_LENT] = call

    def lent(self, call: int) -> bool:
        """Whether every other rank's array is lent for this call."""
        return all(words[_LENT] == call for words in self._others)

    def write(self, whether: bool) -> None:
        """Say that this rank may be writing into what others have lent, or that it does not."""
        self._mine[_WRITING] = whether

    def writes(self, rank: int) -> bool:
        """Whether a rank may be writing."""
        return bool(self._words[rank][_WRITING])

    # -- memory -------------------------------------------------------------------------------

    def attaches(self, operation: str, nbytes: int) -> bool:
        """Whether ranks reach each other's arrays of this size through the kernel; the same on all
        ranks."""
        shares = operation == "all_reduce"
        least = min(self.attach_from, SHARE_BYTES) if shares else self.attach_from
        return self.attached is not None and nbytes >= least

    def next_area(self) -> int:
        """The staging area whose turn it is. The other may still be read by the peers."""
        self._area_turn ^= 1
        return self._area_turn

    def free_areas(self) -> None:
        """Nobody reads either area any more: begin with the first again, which is in the cache."""
        self._area_turn = 1

    def stage(self, rank: int, turn: int) -> Array:
        """One of a rank's two staging areas."""
        start = _STAGE_AT + turn * STAGE_BYTES
        return self._segments[rank].bytes[start : start + STAGE_BYTES]


def open_board(group: Any, parent: Board | None = None) -> Board | None:
    """Make the board of a group (a collective over messages); None if it cannot be shared.

    `parent`: that of a group that has all the ranks of this one.
    """
    if group.size == 1 or platform.machine() not in ("x86_64", "AMD64", "i686"):
        return None
    segments = share(group, _SIZE)
    if segments is None:
        return None
    board = Board(segments, group.rank)
    board.ranks = group.ranks
    if parent is None:
        board.attached = attach(group)
    elif parent.attached is not None:
        board.attached = parent.attached.among([parent.ranks.index(rank) for rank in group.ranks])
    return board
