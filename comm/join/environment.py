"""Who this process is, from the environment variables of its launcher (torchrun's names)."""

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ringlet.comm.errors import LONGEST_S, AuthenticationError, CommError
from ringlet.comm.join.addresses import MAX_PORT, bracketed, is_endpoint, is_host, is_open, tcp
from ringlet.comm.join.key import KEY, KEY_FILE, JobKey, find_key
from ringlet.comm.join.launchers import (
    OVER_MPI,
    SPARE_PORTS,
    torchrun_rendezvous,
    translate,
)

if TYPE_CHECKING:
    from ringlet.comm.schedules.links import Links

_log = logging.getLogger("ringlet.comm")

DEFAULT_TIMEOUT_S = 300.0

TRANSPORTS = ("auto", "ipc", "tcp", "mpi")
"""auto: shared memory and Unix sockets on one host, TCP between hosts; ipc: the same without shared
memory; tcp: TCP on one host too; mpi: over the MPI library (comm/mpi)."""

INSECURE = "RINGLET_INSECURE"

ENCRYPTIONS = ("all", "control")
"""What a job key encrypts: everything between hosts, or only the rendezvous, with arrays in the
clear (SECURITY.md says what that promises)."""

JOINED = "RINGLET_JOINED"
"""Holds which process is which rank, for the processes that it starts: they are none."""

MOST_RANKS = 1_000_000
"""A larger world is a mistake in the environment."""

MOST_DIGITS = 18
"""Longer numbers in the environment are refused."""


@dataclass(frozen=True)
class Environment:
    """What the launcher has set: rank and size of the world, the job, how to meet the others."""

    rank: int
    size: int
    local_size: int | None
    job: str
    generation: int
    rendezvous: str
    spare_ports: tuple[int, ...]  # where rank 0 may listen instead, on the same host
    transport: str
    timeout: float
    agent: bool
    host: str
    key: JobKey | None = None
    encrypt: str = "all"
    seal: bool = False  # messages between ranks, where all of them can
    address: str | None = None  # at which other hosts reach this rank, if it is set
    algorithm: str = ""
    links: "Links | None" = None
    alone: bool = False  # nothing says which rank this is, and of how many

    @property
    def place(self) -> str:
        """What one process alone can be."""
        return f"{self.rank} {self.generation} {self.rendezvous}"

    @property
    def data_key(self) -> JobKey | None:
        """The key for connections between ranks."""
        return self.key if self.encrypt == "all" else None

    @property
    def one_host(self) -> bool:
        """Whether all ranks are known to be on this host."""
        return self.local_size == self.size

    @property
    def uses_tcp(self) -> bool:
        """Whether ranks talk by TCP, as far as is known before they meet."""
        return self.transport == "tcp" or not self.one_host

    @property
    def seals(self) -> bool:
        """Whether messages between ranks are sealed if all of them can."""
        return self.seal and self.uses_tcp and self.transport != "mpi"

    @property
    def ipc_folder(self) -> Path | None:
        """The private folder of the rendezvous' socket file, if the ranks meet through one."""
        if not self.rendezvous.startswith("ipc://"):
            return None
        return Path(self.rendezvous.removeprefix("ipc://")).parent


def read_environment(
    variables: Mapping[str, str] = os.environ, timeout: float | None = None
) -> Environment:
    """Read RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and RINGLET_*, or the
    variables that another launcher sets (launchers.py). `timeout` replaces RINGLET_TIMEOUT.

    With none of them set: a world of one. Raises CommError naming the variable that is missing or
    wrong; AuthenticationError for a malformed job key, and if there is none although other hosts
    can reach an address.
    """
    values = _Variables(translate(variables))
    over_mpi = values.get("RINGLET_RENDEZVOUS") == OVER_MPI
    alone = "RANK" not in values and "WORLD_SIZE" not in values
    size = 1 if alone else values.integer("WORLD_SIZE", minimum=1, most=MOST_RANKS)
    rank = 0 if alone else values.integer("RANK")
    if rank >= size:
        raise CommError(f"RANK is {rank}, but WORLD_SIZE is {size}: ranks count from 0")
    local_size = values.integer("LOCAL_WORLD_SIZE", 1) if "LOCAL_WORLD_SIZE" in values else None
    rendezvous, address, key = "", None, None
    timeout = values.seconds("RINGLET_TIMEOUT", DEFAULT_TIMEOUT_S) if timeout is None else timeout
    if size > 1 or (alone and over_mpi):
        rendezvous = values.rendezvous(timeout)
        address = values.host("RINGLET_ADDRESS") if values.get("RINGLET_ADDRESS") else None
        key = find_key(values)
    # Ranks that meet over MPI make themselves a key.
    met = [] if over_mpi else [rendezvous, f"tcp://{bracketed(address)}" if address else ""]
    check_network(met, key, values)
    return Environment(
        rank=rank,
        size=size,
        local_size=local_size,
        job=values.get("RINGLET_JOB", ""),
        generation=values.integer("RINGLET_GENERATION", default=0),
        rendezvous=rendezvous,
        spare_ports=values.ports(SPARE_PORTS),
        transport=values.choice("RINGLET_TRANSPORT", TRANSPORTS),
        timeout=timeout,
        agent=values.get("RINGLET_AGENT") == "1",
        host=values.get("RINGLET_HOST") or _host_identity(),
        key=key,
        encrypt=values.choice("RINGLET_ENCRYPT", ENCRYPTIONS),
        seal=values.choice("RINGLET_SEALED", ("1", "0")) == "1",
        address=address,
        algorithm=values.algorithm(),
        links=values.links(),
        alone=alone,
    )


class _Variables(dict[str, str]):
    """The environment, read and checked."""

    def text(self, name: str) -> str:
        if not self.get(name, "").strip():
            raise CommError(
                f"{name} is {'empty' if name in self else 'not set'}: start the program with "
                "`ringlet run`, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            )
        return self[name].strip()

    def host(self, name: str) -> str:
        """An address or a name, without IPv6's brackets."""
        text = self.text(name)
        host = text[1:-1] if text[0] + text[-1] == "[]" else text
        if not is_host(host):
            raise CommError(f"{name} is {text!r}; it must be a host's address or name, no more")
        return host

    def rendezvous(self, timeout: float) -> str:
        """Where the ranks meet."""
        if text := self.get("RINGLET_RENDEZVOUS"):
            if text != OVER_MPI and not is_endpoint(text):
                raise CommError(
                    f"RINGLET_RENDEZVOUS is {text!r}; it must be like tcp://10.0.0.1:29400, "
                    "ipc:///folder/name, or mpi"
                )
            return text
        host, port = self.host("MASTER_ADDR"), self.integer("MASTER_PORT", 1, most=MAX_PORT)
        return torchrun_rendezvous(self, host, port, timeout) or tcp(host, port)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        text = self.get(name, choices[0])
        if text not in choices:
            raise CommError(f"{name} is {text!r}; there are {', '.join(choices)}")
        return text

    def integer(
        self, name: str, minimum: int = 0, default: int | None = None, most: int = 10**MOST_DIGITS
    ) -> int:
        if default is not None and name not in self:
            return default
        text = self.text(name)
        fits = text.isdecimal() and len(text) <= MOST_DIGITS
        if not fits or not minimum <= int(text) <= most:
            upper = f"to {most}" if most < 10**MOST_DIGITS else "up"
            raise CommError(f"{name} is {text!r}; it must be a whole number from {minimum} {upper}")
        return int(text)

    def ports(self, name: str) -> tuple[int, ...]:
        """The ports in a list with commas; none if it is not set."""
        listed = [text for text in self.get(name, "").split(",") if text]
        return tuple(_Variables({name: text}).integer(name, 1, most=MAX_PORT) for text in listed)

    def seconds(self, name: str, default: float) -> float:
        text = self.get(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not value > 0:
            raise CommError(f"{name} is {text!r}; it must be a number of seconds above 0")
        return min(value, LONGEST_S)

    # What needs NumPy is imported only if it is asked for: launchers do without.

    def algorithm(self) -> str:
        """The text; it is parsed here so that a wrong one is reported at once."""
        if text := self.get("RINGLET_ALGORITHM", ""):
            from ringlet.comm.schedules.choice import Policy

            Policy.parse(text)
        return text

    def links(self) -> "Links | None":
        if not (text := self.get("RINGLET_LINKS")):
            return None
        from ringlet.comm.schedules.links import Links

        return Links.parse(text)


def check_network(
    addresses: list[str], key: JobKey | None, variables: Mapping[str, str] = os.environ
) -> None:
    """Raise AuthenticationError for an address (tcp://...) that other hosts can reach, unless
    there is a key or RINGLET_INSECURE=1 declares everybody on the network trusted."""
    insecure = variables.get(INSECURE) == "1"
    if insecure and key is not None:
        raise AuthenticationError(
            f"there is a job key, but {INSECURE}=1 asks to run without one: unset one of {KEY}, "
            f"{KEY_FILE} and {INSECURE}"
        )
    for address in addresses:
        if not insecure and key is None and is_open(address):
            raise AuthenticationError(
                f"{address} can be reached from other hosts: make a job key (`ringlet key new "
                f"--out FILE`), copy it to every host and set {KEY_FILE}=FILE. If everybody on the "
                f"network is trusted, set {INSECURE}=1 to run without a key"
            )


def warn_of_network(environment: Environment) -> None:
    """Warn, on one rank, of what is not protected between hosts."""
    if environment.rank or not is_open(environment.rendezvous):
        return
    if environment.key is None:
        _log.warning(
            "ringlet: INSECURE: whoever reaches %s and the ranks' ports can join, read and change "
            "everything", environment.rendezvous,
        )  # fmt: skip
    elif environment.data_key is None:
        _log.warning("ringlet: RINGLET_ENCRYPT=control: arrays travel between hosts in the clear")


def check_not_started_by_a_rank(environment: Environment) -> None:
    """Raise CommError if this is a process that a rank has started, with its variables."""
    pid, _, place = os.environ.get(JOINED, "").partition(" ")
    if environment.size > 1 and place == environment.place and pid != str(os.getpid()):
        raise CommError(
            f"this process was started by rank {environment.rank} (process {pid}), which has "
            "joined the world itself: call comm.init() only in the rank's own process (with "
            "multiprocessing, under `if __name__ == '__main__':`)"
        )


def _host_identity() -> str:
    """Different on different hosts, and in containers with their own file system."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = socket.gethostname()
    place = Path("/tmp").stat()
    return f"{boot}/{place.st_dev}:{place.st_ino}"
