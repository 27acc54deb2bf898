"""The channel between a launcher and one worker: small messages over a socket pair.

A message is a msgpack map behind its length in four bytes. The worker's end is inherited
through RINGLET_CONTROL_FD; when the launcher ends, however it ends, the worker reads EOF. An end
that says something else is taken for closed.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]

VARIABLE = "RINGLET_CONTROL_FD"

_LENGTH = struct.Struct("<I")

MOST_BYTES = 1 << 30
"""No message is longer."""


class Control:
    """One end of the channel. `send` may be called from any thread, `receive` from one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._lock = threading.Lock()
        self._buffer = bytearray()
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

    def send(self, message: Message) -> None:
        """Send a message; a closed other end is no error, its reader will notice."""
        data = _pack(message)
        with self._lock:
            try:
                self._socket.sendall(_LENGTH.pack(len(data)) + data)
            except OSError:
                return

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other end is closed."""
        while True:
            message = self._next()
            if message is not None:
                return message
            if not self.fill():
                return None

    def fill(self, wait: bool = True) -> bool:
        """Read what has come, waiting for something; False when the other end is closed.

        With `wait=False`, also False when there is nothing.
        """
        if self._broken:
            return False
        try:
            data = self._socket.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
        except OSError:
            return False
        self._buffer += data
        return bool(data)

    def messages(self) -> Iterator[Message]:
        """The whole messages among what was read."""
        while (message := self._next()) is not None:
            yield message

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _next(self) -> Message | None:
        start = _LENGTH.size
        if len(self._buffer) < start:
            return None
        length = _LENGTH.unpack_from(self._buffer)[0]
        end = start + length
        if length <= MOST_BYTES and len(self._buffer) < end:
            return None
        message = _unpack(bytes(self._buffer[start:end])) if length <= MOST_BYTES else None
        del self._buffer[:end]
        if message is None:
            self._broken = True
            self._buffer.clear()
        return message


# NumPy is imported when there is something to say: most launchers wait for ends, and no word.


def _pack(message: Message) -> bytes:
    from ringlet.comm.objects import pack

    return pack(message).tobytes()


def _unpack(data: bytes) -> Message | None:
    """The message; None if it is none."""
    import numpy as np

    from ringlet.comm.objects import unpack

    try:
        message: Message = unpack(np.frombuffer(data, np.uint8))
    except ValueError:
        return None
    return message if type(message) is dict else None
