"""Addresses of sockets as text: tcp://10.0.0.1:29400, and tcp://[fd00::1]:29400 for IPv6."""

from typing import Any

import zmq


def bracketed(host: str) -> str:
    """The host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def tcp(host: str, port: int | str) -> str:
    """The address of a port."""
    return f"tcp://{bracketed(host)}:{port}"


def allow_ipv6(endpoint: "zmq.Socket[Any]", address: str) -> None:
    """Before the socket binds or connects to the address. With IPv4 the option would turn
    addresses into IPv6's notation of them, which other hosts need not understand."""
    if address.startswith("tcp://["):
        endpoint.set(zmq.IPV6, 1)
