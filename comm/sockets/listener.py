"""Where a process's inbox listens: a socket file, a TCP port, or both."""

import socket
from pathlib import Path
from typing import Any

import zmq

from ringlet.comm.join.addresses import allow_ipv6, tcp
from ringlet.comm.join.authenticator import Authenticator
from ringlet.comm.join.key import Proof

BACKLOG = 1024
"""Connections that may wait until the ranks have met."""


class Listener:
    """Binds the inbox. The port is taken before the ranks meet, so that they can say where it is,
    and opened after that, when it is known what peers will show: connections wait until then."""

    def __init__(self, inbox: "zmq.Socket[Any]", who: str) -> None:
        self._inbox, self._who = inbox, who
        self._files: list[Path] = []
        self.port: socket.socket | None = None  # until ZeroMQ has it
        self.addresses: set[str] = set()

    def bind_ipc(self, path: Path) -> str:
        """Listen on a socket file, which `hide` removes again; returns the address. To be called
        before `open_port`: what is bound after that asks for a proof."""
        address = f"ipc://{path}"
        self._inbox.bind(address)
        self._files.append(path)
        self.addresses.add(address)
        return address

    def take_port(self, host: str) -> str:
        """Take a free port of the host's address; returns the address. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.port = socket.socket(family, socket.SOCK_STREAM)
        self.port.bind((host, 0))
        self.port.listen(BACKLOG)
        self.port.setblocking(False)
        address = tcp(host, self.port.getsockname()[1])
        self.addresses.add(address)
        return address

    def open_port(self, proof: Proof) -> None:
        """Let in who shows the proof. ZeroMQ holds the parts of a message, however many, until the
        last is there: who is not known sends none."""
        if self.port is None:
            return
        Authenticator(self._inbox, proof, self._who)
        host, number, *_ = self.port.getsockname()
        address = tcp(host, number)
        allow_ipv6(self._inbox, address)
        self._inbox.set(zmq.USE_FD, self.port.detach())
        self.port = None
        self._inbox.bind(address)

    def hide(self) -> None:
        """Remove the socket files: all peers are connected, and nobody has to clean up."""
        for path in self._files:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give back a port that was not opened."""
        if self.port is not None:
            self.port.close()
