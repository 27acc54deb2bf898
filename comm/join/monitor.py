"""What a socket's monitor says. pyzmq's own reader imports asyncio, a tenth of a worker's start."""

import struct
from typing import Any, NamedTuple

import zmq


class Event(NamedTuple):
    """`kind` is one of zmq.EVENT_*; `value` a file descriptor, an error or a reason."""

    kind: int
    value: int


def read_event(monitor: "zmq.Socket[Any]") -> Event:
    """The next event, waiting for it."""
    fields, _ = monitor.recv_multipart()  # the second part is an address
    return Event(*struct.unpack("=Hi", fields))
