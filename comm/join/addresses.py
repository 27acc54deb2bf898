"""Addresses of sockets as text: tcp://10.0.0.1:29400, and tcp://[fd00::1]:29400 for IPv6."""

import contextlib
import fcntl
import ipaddress
import re
import socket
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:  # a launcher of one host starts without ZeroMQ
    import zmq

MAX_PORT = 65535

ELSEWHERE = "192.0.2.1"
"""An address of no host (RFC 5737), to which the default route leads."""

_SIOCGIFADDR = 0x8915  # netdevice(7)

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?")


def bracketed(host: str) -> str:
    """The host as it is written before a port."""
    return f"[{host}]" if ":" in host else host


def tcp(host: str, port: int | str) -> str:
    """The address of a port."""
    return f"tcp://{bracketed(host)}:{port}"


def is_host(text: str) -> bool:
    """Whether the text is an IP address or can be a host's name."""
    if ":" not in text:
        return _NAME.fullmatch(text) is not None
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def is_endpoint(text: str) -> bool:
    """Whether ranks can meet there: tcp://HOST:PORT, or ipc:///PATH."""
    if text.startswith("ipc:///"):
        return True
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or 0
    except ValueError:
        return False
    return text.startswith("tcp://") and is_host(host) and port > 0


def is_open(address: str) -> bool:
    """Whether other hosts can reach the address."""
    return address.startswith("tcp://") and not is_loopback(address)


def is_loopback(address: str) -> bool:
    """Whether a tcp:// address is this host's loopback."""
    try:
        host = urlsplit(address).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def can_bind(host: str) -> bool:
    """Whether the IP address is this host's: a socket can be bound to it."""
    try:
        free_port(host)
    except OSError:
        return False
    return True


def loopback() -> str:
    """This host's loopback address; some have IPv6's alone."""
    for host in ("127.0.0.1", "::1"):
        with contextlib.suppress(OSError):
            return local_address(tcp(host, 1))
    return "127.0.0.1"


def free_port(host: str = "") -> int:
    """A TCP port of the address, or of all, that was free a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def resolve(address: str) -> str:
    """The address with the host's IP address in place of its name: one of this host's own if it has
    any, then IPv4 rather than IPv6. Raises OSError if nobody knows the name."""
    if not address.startswith("tcp://"):
        return address
    parts = urlsplit(address)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # labels that are empty, or too long
        raise OSError(str(error)) from error
    hosts = [str(entry[4][0]) for entry in sorted(found, key=lambda e: e[0] != socket.AF_INET)]
    return tcp(next((host for host in hosts if can_bind(host)), hosts[0]), parts.port or 0)


def local_address(rendezvous: str) -> str:
    """The address of the interface that leads to the rendezvous; loopback for ipc. Raises OSError
    if there is none."""
    if not rendezvous.startswith("tcp://"):
        return loopback()
    parts = urlsplit(resolve(rendezvous))
    host = parts.hostname or ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, parts.port or 1))  # sends nothing
        address: str = probe.getsockname()[0]
    return address


def own_addresses() -> list[str]:
    """The IPv4 addresses of this host's interfaces without loopback, the default route's first."""
    found = []
    with contextlib.suppress(OSError):
        found.append(local_address(tcp(ELSEWHERE, 1)))
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError):
            found.append(ipv4_of(name))
    return [host for host in dict.fromkeys(found) if not is_loopback(tcp(host, 1))]


def ipv4_of(interface: str) -> str:
    """The IPv4 address of a network interface; raises OSError if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])


def allow_ipv6(endpoint: "zmq.Socket[Any]", address: str) -> None:
    """Prepare the socket to bind or connect to the address. Call it for IPv4 too: there the
    option stays off, since it would write addresses in a form that other hosts may not know."""
    if address.startswith("tcp://["):
        import zmq

        endpoint.set(zmq.IPV6, 1)
