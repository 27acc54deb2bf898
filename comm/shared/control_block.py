"""The control block: a group's shared memory on one host, and the fences at which its ranks meet.

Each rank writes its own words, and everybody reads all of them. A segment begins with a counter,
the rank's *phase*: at a fence a rank advances its own and waits until nobody's is behind. Beside it
stand the rank's present call and where its data lies, so that ranks that meet in different calls
see it at once; then come two staging areas, which are used in turn.

The counters rely on stores becoming visible in the order in which they were made, which x86
guarantees to Python code and other processors do not. (memcpy's streaming stores, which do not
keep the order, end with a store fence.)
"""

import os
import platform
import time
from typing import Any

import numpy as np

from ringlet.comm.arrays import Array
from ringlet.comm.machine import cores
from ringlet.comm.protocols import Callback, Wait
from ringlet.comm.schedules.direct import AREAS
from ringlet.comm.shared import futex
from ringlet.comm.shared.attach import ProcessMemory, attach
from ringlet.comm.shared.constants import Constants
from ringlet.comm.shared.lower import STAGE_BYTES
from ringlet.comm.shared.segment import Segment, share

_STAGE_AT = 4096
_SIZE = _STAGE_AT + AREAS * STAGE_BYTES

# Words of 8 bytes; what one rank writes often and others read stands on a cache line of its own.
_PHASE, _ASLEEP, _CALL = 0, 16, 32
_CALL_WORDS = 5  # call, region, offset, length of the note, address; in two buffers
_EXPOSED, _WRITING = 48, 49  # see `exposure`

NOTE_BYTES = 1024
_NOTE_AT = 1024

SPIN_S = 20e-6
YIELD_S = 1e-3

POLL_S = 0.02
"""A rank that waits at a fence reads its messages this often: they tell of ranks that ended."""


class ControlBlock(Wait):
    """One group's shared memory. Ranks in arguments count within the group.

    As a wait it is over when every rank has come to the fence.
    """

    poll_ms = 0

    def __init__(self, segments: list[Segment], rank: int, world_ranks: tuple[int, ...]) -> None:
        self.rank, self.size, self.world_ranks = rank, len(segments), world_ranks
        self.processes: ProcessMemory | None = None  # where ranks reach each other's whole memory
        self.constants = Constants()
        self.area = 1  # the staging area that was used last
        self._segments = segments
        self._words = [segment.bytes.data.cast("Q") for segment in segments]
        self._others = [words for r, words in enumerate(self._words) if r != rank]
        self._mine = self._words[rank]
        self._address = segments[rank].address
        self._phase = self._buffer = 0
        # With a core for each rank, waiting in a loop is the fastest; with fewer, whoever is
        # waited for may need this very core.
        crowded = self.size > cores()
        self._spin = 0.0 if crowded else SPIN_S
        self._yield = 50e-6 if crowded else YIELD_S

    # -- fences -------------------------------------------------------------------------------

    def arrive(self) -> None:
        """Come to the next fence, which publishes what this rank wrote before."""
        self._phase = phase = self._phase + 1
        self._mine[_PHASE] = phase
        for words in self._others:
            if words[_ASLEEP]:
                futex.wake(self._address)
                break

    def ready(self) -> bool:
        """Whether every rank has come to this rank's fence."""
        phase = self._phase
        for words in self._others:  # noqa: SIM110
            if words[_PHASE] < phase:
                return False
        return True

    def soon(self) -> bool:
        """Wait for the others without sleeping, for a very short time; whether all came."""
        phase, others = self._phase, self._others
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
            if self.ready():
                return True
            os.sched_yield()
        return self.ready()

    def wait(self, tick: Callback, poll: Callback) -> None:
        """Watch, then sleep; now and then read messages, which tell of ranks that ended."""
        if self.soon():
            return
        poll_at = time.monotonic() + POLL_S
        while not self.ready():
            self.sleep(POLL_S)
            if time.monotonic() >= poll_at:
                poll_at = time.monotonic() + POLL_S
                poll()
                tick()

    def nap(self, seconds: float) -> bool:
        """Sleep on the counters, with the interpreter free for other threads."""
        self.sleep(seconds)
        return True

    @property
    def awaited(self) -> int | None:  # type: ignore[override]
        """The world rank of the first that has not come to this rank's fence."""
        for rank, words in enumerate(self._words):
            if words[_PHASE] < self._phase:
                return self.world_ranks[rank]
        return None

    def sleep(self, seconds: float) -> None:
        """Sleep until the first rank that is behind moves, or for this long at most."""
        for rank, words in enumerate(self._words):
            present = words[_PHASE]
            if present < self._phase:
                self._mine[_ASLEEP] = 1
                # The kernel compares once more: a step taken just now is not slept through.
                futex.wait(self._segments[rank].address, present, seconds)
                self._mine[_ASLEEP] = 0
                return

    # -- what ranks say at a fence ------------------------------------------------------------

    def announce(self, call: int) -> int:
        """Write down this rank's call (a hash), and come to a fence. Returns the index of the
        buffer from which to read what the others wrote, after the fence."""
        self._buffer = buffer = self._buffer ^ 1
        self._mine[_CALL + buffer * _CALL_WORDS] = call
        self.arrive()
        return buffer

    def lay(self, place: tuple[int, int]) -> None:
        """Say in which region and where in it this rank's array lies in the next call: to be read
        after its first fence."""
        at, mine = _CALL + (self._buffer ^ 1) * _CALL_WORDS, self._mine
        mine[at + 1], mine[at + 2] = place

    def expose(self, call: int, address: int) -> None:
        """Expose what lies at this process's address to the others in the next call."""
        self._mine[_CALL + (self._buffer ^ 1) * _CALL_WORDS + 4] = address
        self._mine[_EXPOSED] = call

    def write_note(self, text: bytes) -> None:
        """Leave a short note to be read after the next call's first fence."""
        buffer = self._buffer ^ 1
        start = _NOTE_AT + buffer * NOTE_BYTES
        self._mine[_CALL + buffer * _CALL_WORDS + 3] = len(text)
        self._segments[self.rank].bytes[start : start + len(text)] = np.frombuffer(text, np.uint8)

    def read_note(self, rank: int, buffer: int) -> bytes:
        """A rank's note."""
        start = _NOTE_AT + buffer * NOTE_BYTES
        length = self._words[rank][_CALL + buffer * _CALL_WORDS + 3]
        return self._segments[rank].bytes[start : start + min(length, NOTE_BYTES)].tobytes()

    def agree(self, call: int, buffer: int) -> bool:
        """Whether every rank is in this call."""
        at = _CALL + buffer * _CALL_WORDS
        for words in self._others:  # noqa: SIM110
            if words[at] != call:
                return False
        return True

    def places(self, buffer: int) -> tuple[tuple[int, int], ...]:
        """Every rank's region and offset."""
        at = _CALL + buffer * _CALL_WORDS
        return tuple([(words[at + 1], words[at + 2]) for words in self._words])

    def addresses(self, buffer: int) -> list[int]:
        """Where every rank's array lies in its own process."""
        at = _CALL + buffer * _CALL_WORDS
        return [words[at + 4] for words in self._words]

    # -- exposure -----------------------------------------------------------------------------

    def withdraw(self) -> None:
        """Let nobody write into this rank's array any more."""
        self._mine[_EXPOSED] = 0

    def exposed(self, call: int) -> bool:
        """Whether every other rank's array is exposed for this call."""
        return all(words[_EXPOSED] == call for words in self._others)

    def set_writing(self, writing: bool) -> None:
        """Say whether this rank may be writing into what others have exposed."""
        self._mine[_WRITING] = writing

    def writes(self, rank: int) -> bool:
        """Whether a rank may be writing."""
        return bool(self._words[rank][_WRITING])

    # -- staging ------------------------------------------------------------------------------

    def staging(self, rank: int, area: int) -> Array:
        """One of a rank's staging areas."""
        start = _STAGE_AT + area * STAGE_BYTES
        return self._segments[rank].bytes[start : start + STAGE_BYTES]


def open_control_block(group: Any, parent: ControlBlock | None = None) -> ControlBlock | None:
    """Make the control block of a group (a collective over messages); None where ranks cannot
    share one.

    `parent`: that of a group that has all the ranks of this one.
    """
    if group.size == 1 or platform.machine() not in ("x86_64", "AMD64", "i686"):
        return None
    segments = share(group, _SIZE)
    if segments is None:
        return None
    control = ControlBlock(segments, group.rank, group.ranks)
    if parent is None:
        control.processes = attach(group)
        return control
    control.constants = parent.constants
    if parent.processes is not None:
        control.processes = parent.processes.among(
            [parent.world_ranks.index(rank) for rank in group.ranks]
        )
    return control
