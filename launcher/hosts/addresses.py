"""IP addresses: what --master, --interface and --address mean on this host."""

import ipaddress
import socket
from pathlib import Path

from ringlet.comm.join.addresses import (
    bracketed,
    can_bind,
    ipv4_of,
    is_loopback,
    local_address,
    tcp,
)
from ringlet.launcher.errors import UserError, user_errors

# Of /proc/net/if_inet6: linux/if_addr.h, net/ipv6.h.
_LINK_SCOPE = 0x20
_DEPRECATED, _TENTATIVE = 0x20, 0x40


def resolve(master: str) -> str:
    """HOST:PORT with the host's address instead of its name; for IPv6 [ADDRESS]:PORT."""
    host, colon, port = master.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise UserError(f"--master is {master!r}; it must be HOST:PORT, as in 10.0.0.1:29400")
    address = resolve_host(host.removeprefix("[").removesuffix("]"))
    if is_loopback(tcp(address, 0)) and not is_loopback(f"tcp://{host}"):
        raise UserError(
            f"{host} is {address} on this host, which other hosts cannot reach: give --master an "
            "address"
        )
    return f"{bracketed(address)}:{port}"


def host_of(master: str) -> str:
    """The address in ADDRESS:PORT."""
    return master.rpartition(":")[0].removeprefix("[").removesuffix("]")


def resolve_host(host: str) -> str:
    """The IP address of the host: IPv4, if it has one."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot find the address of {host!r}: {error}") from error
    address = str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])
    if "%" in address or ipaddress.ip_address(address).is_link_local:
        raise UserError(
            f"{address} is valid on one link only: give an address that is the same from everywhere"
        )
    return address


def own_address(master: str, interface: str | None, address: str | None) -> str:
    """The address where other hosts reach this one's workers: the one asked for, or that of the
    interface that routes to `master` (HOST:PORT)."""
    if interface is not None and address is not None:
        raise UserError("--interface and --address both say where to listen: give one")
    if interface is not None:
        return interface_address(interface, ipv6=":" in host_of(master))
    if address is not None:
        try:
            return str(ipaddress.ip_address(address))
        except ValueError:
            raise UserError(f"--address is {address!r}; it must be an IP address") from None
    with user_errors(os_error=f"this host has no route to {master}"):
        return local_address(f"tcp://{master}")


def interface_address(name: str, ipv6: bool = False) -> str:
    """The IPv4 or IPv6 address of a network interface."""
    known = [interface for _, interface in socket.if_nameindex()]
    if name not in known:
        raise UserError(f"there is no interface {name!r}; there are {', '.join(known)}")
    if ipv6:
        return _ipv6_address(name)
    try:
        return ipv4_of(name)
    except OSError as error:
        raise UserError(f"the interface {name} has no IPv4 address") from error


def _ipv6_address(name: str) -> str:
    """An address that is neither link-local, deprecated nor tentative."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        digits, _, _, scope, flags, interface = line.split()
        unused = int(flags, 16) & (_DEPRECATED | _TENTATIVE)
        if interface == name and int(scope, 16) != _LINK_SCOPE and not unused:
            return str(ipaddress.IPv6Address(bytes.fromhex(digits)))
    raise UserError(f"the interface {name} has no IPv6 address, but --master is one")


def is_own(address: str) -> bool:
    """Whether the address is this host's: a socket can be bound to it."""
    return is_loopback(tcp(address, 0)) or can_bind(address)
