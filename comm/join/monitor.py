"""What a socket's monitor says. pyzmq's own reader imports asyncio, a tenth of a worker's start."""

import struct
from typing import Any

import zmq


def read_event(monitor: "zmq.Socket[Any]") -> tuple[int, int]:
    """Wait for the next event: one of zmq.EVENT_*, and a file descriptor, an error or a reason."""
    fields, _ = monitor.recv_multipart()  # the second part is an address
    kind, value = struct.unpack("=Hi", fields)
    return kind, value
