"""Who this process is, as its launcher says in the environment (torchrun's variable names)."""

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ringlet.comm.errors import AuthenticationError, CommError
from ringlet.comm.join.addresses import bracketed, tcp
from ringlet.comm.join.key import KEY, KEY_FILE, JobKey, find_key
from ringlet.comm.join.mpi import translate

if TYPE_CHECKING:
    from ringlet.comm.schedules.links import Links

DEFAULT_TIMEOUT_S = 300.0

TRANSPORTS = ("auto", "ipc", "tcp")
"""auto: shared memory and Unix sockets on one host, TCP between hosts; ipc: without shared
memory; tcp: TCP on one host too."""

INSECURE = "RINGLET_INSECURE"

ENCRYPTIONS = ("all", "control")
"""What a job key encrypts: everything between hosts, or only the meeting, while arrays travel in
the clear (SECURITY.md says what that promises)."""


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
    key: JobKey | None = None
    encrypt: str = "all"
    address: str | None = None
    algorithm: str = ""
    links: "Links | None" = None

    @property
    def data_key(self) -> JobKey | None:
        """The key for connections between ranks."""
        return self.key if self.encrypt == "all" else None

    @property
    def listen_address(self) -> str:
        """The address of this host at which other hosts reach this rank."""
        return self.address or local_address(self.rendezvous)

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
    """Read RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and RINGLET_*, or what
    Open MPI's and MPICH's mpirun say.

    With neither RANK nor WORLD_SIZE set: a world of one. Raises CommError naming the variable
    that is missing or wrong, AuthenticationError for an address that other hosts can reach while
    there is no job key, and for a key that is none.
    """
    variables = translate(variables)
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
    address = variables.get("RINGLET_ADDRESS") if size > 1 else None
    key = find_key(variables) if size > 1 else None
    check_network([rendezvous, f"tcp://{bracketed(address)}" if address else ""], key, variables)
    encrypt = variables.get("RINGLET_ENCRYPT", "all")
    if encrypt not in ENCRYPTIONS:
        raise CommError(f"RINGLET_ENCRYPT is {encrypt!r}; there are {', '.join(ENCRYPTIONS)}")
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
        key=key,
        encrypt=encrypt,
        address=address,
        algorithm=_policy(variables),
        links=_links(variables),
    )


def _links(variables: Mapping[str, str]) -> "Links | None":
    """RINGLET_LINKS."""
    if not variables.get("RINGLET_LINKS"):
        return None
    from ringlet.comm.schedules.links import Links

    return Links.parse(variables["RINGLET_LINKS"])


def _policy(variables: Mapping[str, str]) -> str:
    """RINGLET_ALGORITHM, which is read here so that a wrong one is told at once."""
    text = variables.get("RINGLET_ALGORITHM", "")
    if text:
        from ringlet.comm.schedules.choice import Policy  # needs NumPy, which launchers do without

        Policy.parse(text)
    return text


MOST_DIGITS = 18
"""Of a whole number in the environment."""


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
        if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < minimum:
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
        return tcp(address, reader.integer("MASTER_PORT", 1))


def check_network(
    addresses: list[str], key: JobKey | None, variables: Mapping[str, str] = os.environ
) -> None:
    """Raise AuthenticationError for an address (tcp://...) that other hosts can reach, unless
    there is a key, or RINGLET_INSECURE=1 says that everybody on the network is trusted."""
    insecure = variables.get(INSECURE) == "1"
    if insecure and key is not None:
        raise AuthenticationError(
            f"there is a job key, and {INSECURE}=1 says that none is wanted: unset one of {KEY}, "
            f"{KEY_FILE} and {INSECURE}"
        )
    for address in addresses:
        if not insecure and key is None and is_open(address):
            raise AuthenticationError(
                f"{address} can be reached from other hosts: make a job key (`ringlet key new "
                f"--out FILE`), give it to every host and set {KEY_FILE}=FILE. Where everybody on "
                f"the network is trusted, {INSECURE}=1 does without"
            )


def is_open(address: str) -> bool:
    """Whether other hosts can reach the address."""
    return address.startswith("tcp://") and not is_loopback(address)


def is_loopback(address: str) -> bool:
    """Whether a tcp:// address is this host's loopback."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def local_address(rendezvous: str) -> str:
    """The address of the interface from which the rendezvous is reached; loopback for ipc."""
    parts = urlsplit(rendezvous)
    if not rendezvous.startswith("tcp://") or is_loopback(rendezvous):
        return "::1" if parts.hostname == "::1" else "127.0.0.1"
    host = parts.hostname or ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, parts.port or 1))  # sends nothing
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
