"""This host's addresses: what --master, --interface and --address mean as numbers."""

import fcntl
import ipaddress
import socket
import struct

from ringlet.comm.environment import is_loopback, local_address
from ringlet.launcher.errors import UserError

_SIOCGIFADDR = 0x8915  # netdevice(7)


def resolve(master: str) -> str:
    """HOST:PORT with the host's IPv4 address in place of its name."""
    host, colon, port = master.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"--master is {master!r}; it has to be HOST:PORT, as in 10.0.0.1:29400")
    address = resolve_host(host)
    if is_loopback(f"tcp://{address}") and not is_loopback(f"tcp://{host}"):
        raise UserError(
            f"{host} is {address} on this host, where other hosts cannot reach it: give --master "
            "an address"
        )
    return f"{address}:{port}"


def resolve_host(host: str) -> str:
    """The IPv4 address of the host."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(f"there is no address of {host!r}: {error}") from error
    return str(found[0][4][0])


def own_address(master: str, interface: str | None, address: str | None) -> str:
    """At which address of this host the others reach its workers: the one that was asked for, or
    that of the interface towards `master` (HOST:PORT)."""
    if interface is not None and address is not None:
        raise UserError("--interface and --address both say where to listen: give one")
    if interface is not None:
        return interface_address(interface)
    if address is not None:
        try:
            return str(ipaddress.ip_address(address))
        except ValueError:
            raise UserError(f"--address is {address!r}; it has to be an IP address") from None
    try:
        return local_address(f"tcp://{master}")
    except OSError as error:
        raise UserError(f"no way from this host to {master}: {error.strerror}") from error


def interface_address(name: str) -> str:
    """The IPv4 address of a network interface."""
    known = [interface for _, interface in socket.if_nameindex()]
    if name not in known:
        raise UserError(f"there is no interface {name!r}; there are {', '.join(known)}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            request = struct.pack("256s", name.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
        except OSError as error:
            raise UserError(f"the interface {name} has no IPv4 address") from error


def is_own(address: str) -> bool:
    """Whether the address is this host's: something can be bound to it."""
    if is_loopback(f"tcp://{address}"):
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
