"""Addresses of sockets as text: tcp://10.0.0.1:29400, and tcp://[fd00::1]:29400 for IPv6."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a launcher of one host starts without ZeroMQ
    import zmq


def bracketed(host: str) -> str:
    """The host as it is written before a port."""
    return f"[{host}]" if ":" in host else host


def tcp(host: str, port: int | str) -> str:
    """The address of a port."""
    return f"tcp://{bracketed(host)}:{port}"


def allow_ipv6(endpoint: "zmq.Socket[Any]", address: str) -> None:
    """Prepare the socket to bind or connect to the address. Call it for IPv4 too: there the
    option stays off, since it would write addresses in a form that other hosts may not know."""
    if address.startswith("tcp://["):
        import zmq

        endpoint.set(zmq.IPV6, 1)
