"""What arrives: a message, and the memory where its array goes, whole or block by block."""

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import zmq

from ringlet.comm.arrays import Array, overflow_allowed
from ringlet.comm.machine import level_2_bytes
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.wire import (
    RECORD_BYTES,
    SUMMED_BYTES,
    TAG_BYTES,
    Damaged,
    Header,
    checksum,
    clear_bytes,
    sum_of_words,
)

if TYPE_CHECKING:
    from ringlet.comm.sockets.ciphers import Seal

CACHED = 4
"""An array is taken in blocks of this part of the second-level cache. Of 2 MiB that have left it,
on a Xeon (2 MiB of it), both checksums and the sum take 0.6 to 0.75 of the time as a whole."""

Combine: TypeAlias = Callable[..., Any]
"""A NumPy ufunc of two arguments: combine(a, b, out=a)."""


class Sink:
    """Where an array goes: into `segment`, contiguous and 1-D, or combined with it, `peer_first`:
    as the first operand. `wants_check`: the checksum of the result is wanted.

    A plain socket can write it there while it arrives. It holds the lock meanwhile, and writes
    nothing any more once this is `closed`.
    """

    expected: tuple[int, Signature, int] | None = None
    """The sequence, signature and number in the header of the message."""

    checked = True
    """The header has a checksum."""

    def __init__(
        self,
        segment: Array,
        combine: Combine | None = None,
        peer_first: bool = False,
        wants_check: bool = False,
    ) -> None:
        self.segment, self.combine, self._peer_first = segment, combine, peer_first
        self.wants_check = wants_check
        self.nbytes, self.total, self._check = segment.nbytes, 0, 0
        self.closed = self.spoiled = False
        self.lock = threading.Lock()
        self.error: Exception | None = None  # of combining

    def take(self, payload: Any) -> None:
        """Take all bytes of the array."""
        arrived = np.frombuffer(payload, self.segment.dtype)
        for part in blocks(arrived):
            self._take(self.segment[part], arrived[part])

    def _take(self, own: Array, arrived: Array) -> None:
        if self.checked:
            self.total += sum_of_words(arrived.view(np.uint8))
        if self.combine is not None:
            operands = (arrived, own) if self._peer_first else (own, arrived)
            with overflow_allowed():
                self.combine(*operands, out=own)
            if self.wants_check:
                self._check += sum_of_words(own.view(np.uint8))
        elif own is not arrived:
            own[...] = arrived

    @property
    def check(self) -> int | None:
        """The checksum of what was combined, if it is at hand."""
        return self._check % 2**64 if self._check else None

    # -- block by block -----------------------------------------------------------------------

    def begin(self, seal: "Seal | None" = None) -> None:
        """Make ready for the array's first bytes, which the seal, if any, opens."""
        self._seal, self._number = seal, -1
        if seal is None:
            self._whole, nbytes = self.segment, 0
        else:  # what is combined has no elements that two records share
            self._whole = self.segment if self.combine else self.segment.view(np.uint8)
            nbytes = RECORD_BYTES
            self._record = np.empty(min(self.nbytes, nbytes) + TAG_BYTES, np.uint8).data
        self._blocks = blocks(self._whole, nbytes)
        self._arriving = self._whole[:0]
        self._next()

    def _next(self) -> None:
        block = self._block = self._whole[next(self._blocks, slice(0, 0))]
        self._number += 1
        if self.combine is None:
            self._arriving = block
        elif self._arriving.size < block.size:
            self._arriving = np.empty_like(block)
        else:
            self._arriving = self._arriving[: block.size]
        self._bytes = self._entering = self._arriving.view(np.uint8).data
        if self._seal is not None:
            self._entering = self._record[: block.nbytes + TAG_BYTES]
        self.room = self._entering

    def took(self, count: int) -> None:
        """The array's next bytes are in `room`, so many."""
        self.room = self.room[count:]
        if not self.room.nbytes:
            try:
                if self._seal is not None:
                    self._seal.open_record(self._number, self.nbytes, self._entering, self._bytes)
                self._take(self._block, self._arriving)
            except Exception as error:  # who reads may be in another call
                self.error = error
            self._next()
        self.spoiled = self.error is not None

    def close(self) -> None:
        """Nothing is written there any more."""
        with self.lock:
            self.closed = True


class Message(NamedTuple):
    """A header and the bytes that came with it; `frame` is ZeroMQ's memory in which they lie as
    they were sent. With a `seal` they are still encrypted. A Sink has them where they belong."""

    header: Header
    payload: Any  # supports the buffer protocol
    frame: "zmq.Frame | None" = None
    seal: "Seal | None" = None

    @property
    def nbytes(self) -> int:
        """How many bytes were sent."""
        if isinstance(self.payload, Sink):
            return self.payload.nbytes
        nbytes = memoryview(self.payload).nbytes
        return nbytes if self.seal is None else clear_bytes(nbytes)

    def content(self) -> Any:
        """The bytes that were sent, perhaps in the transport's memory and unaligned; raises Damaged
        if these are others."""
        if self.seal is not None:
            return self.seal.open(self.payload)
        if self.header.checksum is not None:
            self._compare(checksum(self.payload))
        return self.payload

    def take_to(self, sink: Sink) -> int | None:
        """Bring them where they belong, if they are not there yet. Returns the checksum of what is
        there, if it is at hand; raises Damaged, perhaps with rubbish there."""
        if self.payload is sink:
            if sink.error is not None:
                raise sink.error
            if sink.spoiled:
                raise Damaged
            self._compare(sink.total)
        elif self.seal is not None and sink.combine is None:
            self.seal.open_into(memoryview(self.payload), sink.segment.view(np.uint8).data)
        elif self.seal is not None or sink.nbytes < SUMMED_BYTES:
            sink.checked = sink.wants_check = False
            sink.take(self.content())
        else:
            sink.checked = self.header.checksum is not None
            sink.take(self.payload)
            self._compare(sink.total)
        return self.header.checksum if sink.combine is None else sink.check

    def _compare(self, total: int) -> None:
        if self.header.checksum not in (None, total % 2**64):
            raise Damaged


def blocks(array: Array, nbytes: int = 0) -> Iterator[slice]:
    """The contiguous 1-D array in parts of so many bytes; by default in those of which a sum, and
    what is done with them besides, stay in the second-level cache. All but the last are whole
    words."""
    nbytes = nbytes or level_2_bytes() // CACHED
    step = max(1, nbytes // 8 // array.itemsize) * 8
    return (slice(start, start + step) for start in range(0, array.size, step))
