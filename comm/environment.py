"""Who this process is, as its launcher says in the environment (torchrun's variable names)."""

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ringlet.comm.errors import AuthenticationError, CommError

DEFAULT_TIMEOUT_S = 300.0

TRANSPORTS = ("auto", "ipc", "tcp")
"""auto: shared memory and Unix sockets on one host, TCP between hosts; ipc: without shared
memory; tcp: TCP on one host too."""


@dataclass(frozen=True)
class Environment:
    """The launcher's word: rank and size of the world, the job, and how to meet the others."""

    rank: int
    size: int
    local_size: int | None
    job: str
    generation: int
    rendezvous: str
    transport: str
    timeout: float
    agent: bool
    host: str

    @property
    def one_host(self) -> bool:
        """Whether all ranks are known to be on this host."""
        return self.local_size == self.size

    @property
    def ipc_folder(self) -> Path | None:
        """The private folder that holds the rendezvous' socket file, if that is how to meet."""
        if not self.rendezvous.startswith("ipc://"):
            return None
        return Path(self.rendezvous.removeprefix("ipc://")).parent


def read_environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """Read RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and RINGLET_*.

    With neither RANK nor WORLD_SIZE set: a world of one. Raises CommError naming the variable
    that is missing or wrong, AuthenticationError for an address other hosts can reach.
    """
    reader = _Reader(variables)
    alone = "RANK" not in variables and "WORLD_SIZE" not in variables
    size = 1 if alone else reader.integer("WORLD_SIZE", minimum=1)
    rank = 0 if alone else reader.integer("RANK", minimum=0)
    if rank >= size:
        raise CommError(f"RANK is {rank}, but WORLD_SIZE is {size}: ranks count from 0")
    local_size = reader.integer("LOCAL_WORLD_SIZE", 1) if "LOCAL_WORLD_SIZE" in variables else None
    transport = variables.get("RINGLET_TRANSPORT", "auto")
    if transport not in TRANSPORTS:
        raise CommError(f"RINGLET_TRANSPORT is {transport!r}; there are {', '.join(TRANSPORTS)}")
    rendezvous = _rendezvous(reader) if size > 1 else ""
    if variables.get("RINGLET_INSECURE") != "1":
        _refuse_open_network(rendezvous)
    return Environment(
        rank=rank,
        size=size,
        local_size=local_size,
        job=variables.get("RINGLET_JOB", ""),
        generation=reader.integer("RINGLET_GENERATION", 0, default=0),
        rendezvous=rendezvous,
        transport=transport,
        timeout=reader.seconds("RINGLET_TIMEOUT", DEFAULT_TIMEOUT_S),
        agent=variables.get("RINGLET_AGENT") == "1",
        host=variables.get("RINGLET_HOST") or _host_identity(),
    )


class _Reader:
    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str) -> str:
        if name not in self._variables:
            raise CommError(
                f"{name} is not set: start the program with `ringlet run`, or set RANK, "
                "WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            )
        return self._variables[name]

    def integer(self, name: str, minimum: int, default: int | None = None) -> int:
        if default is not None and name not in self._variables:
            return default
        text = self.text(name)
        if not text.isdecimal() or int(text) < minimum:
            raise CommError(f"{name} is {text!r}; it has to be a whole number from {minimum} up")
        return int(text)

    def seconds(self, name: str, default: float) -> float:
        text = self._variables.get(name)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = -1.0
        if not value > 0:
            raise CommError(f"{name} is {text!r}; it has to be a number of seconds above 0")
        return value


def _rendezvous(reader: _Reader) -> str:
    try:
        return reader.text("RINGLET_RENDEZVOUS")
    except CommError:
        address = reader.text("MASTER_ADDR")
        host = f"[{address}]" if ":" in address else address
        return f"tcp://{host}:{reader.integer('MASTER_PORT', 1)}"


def _refuse_open_network(rendezvous: str) -> None:
    if not rendezvous.startswith("tcp://") or is_loopback(rendezvous):
        return
    raise AuthenticationError(
        f"{rendezvous} can be reached from other hosts, and connections are neither encrypted nor "
        "authenticated yet: set RINGLET_INSECURE=1 if everybody on that network is trusted"
    )


def is_loopback(address: str) -> bool:
    """Whether a tcp:// address is this host's loopback."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def local_address(rendezvous: str) -> str:
    """The address of the interface from which the rendezvous is reached; loopback for ipc."""
    if not rendezvous.startswith("tcp://") or is_loopback(rendezvous):
        return "127.0.0.1"
    parts = urlsplit(rendezvous)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname or "", parts.port or 1))  # sends nothing
        address: str = probe.getsockname()[0]
    return address


def _host_identity() -> str:
    """Tells hosts, and containers with a file system of their own, apart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = socket.gethostname()
    place = Path("/tmp").stat()
    return f"{boot}/{place.st_dev}:{place.st_ino}"
