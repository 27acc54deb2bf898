"""The control channel between a launcher and one worker: notices over a socket pair.

A notice is a msgpack map, preceded by its length in four bytes. The worker inherits its end
through RINGLET_CONTROL_FD; when the launcher ends, however it ends, the worker reads EOF. A
malformed notice counts as EOF.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

Notice: TypeAlias = dict[str, Any]

VARIABLE = "RINGLET_CONTROL_FD"
MAX_BYTES = 1 << 30
_LENGTH = struct.Struct("<I")


class Control:
    """One end of the channel. `send` may be called from any thread, `receive` from one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._lock = threading.Lock()
        self._buffer, self._unsent = bytearray(), bytearray()
        self._broken = False

    @classmethod
    def inherited(cls) -> "Control | None":
        """The worker's end, if a launcher started this process; the variable is used up."""
        number = os.environ.pop(VARIABLE, None)
        if number is None:
            return None
        end = socket.socket(fileno=int(number))
        end.set_inheritable(False)
        return cls(end)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, notice: Notice, wait: bool = True, tuples: bool = False) -> None:
        """Send a notice. A closed other end is no error: `receive` and `fill` will tell.

        With `wait=False`, what the other end does not take now, because it is stopped or busy, is
        kept for `push`. With `tuples`, those in the notice do not become lists.
        """
        # Imported here, as NumPy is below: most launchers only wait for their workers to end.
        from ringlet.comm.objects import pack

        data = pack(notice, tuples).tobytes()
        with self._lock:
            self._unsent += _LENGTH.pack(len(data)) + data
            self._send_unsent(wait)

    def push(self) -> None:
        """Send what was kept, as far as the other end takes it."""
        if self._unsent:
            with self._lock:
                self._send_unsent(wait=False)

    def _send_unsent(self, wait: bool) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent, 0 if wait else socket.MSG_DONTWAIT)
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()

    def receive(self) -> Notice | None:
        """Wait for the next notice; None when the other end is closed."""
        while (notice := self._next()) is None:
            if not self.fill():
                return None
        return notice

    def fill(self, wait: bool = True) -> bool:
        """Read what has arrived, and wait for something; False when the other end is closed.

        With `wait=False`, also False when nothing has arrived.
        """
        if self._broken:
            return False
        try:
            data = self._socket.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
        except OSError:
            return False
        self._buffer += data
        return bool(data)

    def notices(self) -> Iterator[Notice]:
        """The complete notices among what was read."""
        while (notice := self._next()) is not None:
            yield notice

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _next(self) -> Notice | None:
        start = _LENGTH.size
        if len(self._buffer) < start:
            return None
        length = _LENGTH.unpack_from(self._buffer)[0]
        end = start + length
        if length <= MAX_BYTES and len(self._buffer) < end:
            return None
        notice = _unpack(bytes(self._buffer[start:end])) if length <= MAX_BYTES else None
        del self._buffer[:end]
        if notice is None:
            self._broken = True
            self._buffer.clear()
        return notice


def _unpack(data: bytes) -> Notice | None:
    """The notice; None if it is malformed."""
    import numpy as np

    from ringlet.comm.objects import unpack

    try:
        notice: Notice = unpack(np.frombuffer(data, np.uint8))
    except ValueError:
        return None
    return notice if type(notice) is dict else None
