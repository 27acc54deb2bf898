"""What workers find in their environment: who they are, how to meet, and how to use the host."""

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ringlet.comm.join.folders import make_folder, remove_folder
from ringlet.launcher.supervisor.cores import shares

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""What glibc does with freed memory: keep it, in huge pages, as `nn.memory` says. Messages are
received into new memory: without this an all-reduce of 16 MiB over TCP faults in 1,700 pages and
takes a third more of the processor's time."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Job:
    """One start of a job's workers, of which this host's are `ranks`: the first has generation 0,
    and there may be so many `restarts`. `variables` are more of their environment.

    `size` counts all. With `pin` each worker has cores of its own.
    `folder` is private (0700); the rendezvous' socket file lies in it until
    all have met, unless the job has several hosts: then `rendezvous` is tcp://address:port, and
    `address` this host's own.
    """

    size: int
    transport: str = "auto"
    timeout: float | None = None
    job: str = field(default_factory=lambda: secrets.token_hex(8))
    port: int = field(default_factory=lambda: free_port())
    folder: Path | None = field(default_factory=make_folder)
    variables: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    restarts: int = 0
    first: int = 0
    local_size: int | None = None
    node: int = 0
    rendezvous: str | None = None
    address: str | None = None
    pin: bool = False

    @property
    def ranks(self) -> range:
        """The ranks of this host."""
        return range(self.first, self.first + (self.local_size or self.size))

    def cores(self, rank: int) -> list[int] | None:
        """The cores of one worker; None: it may run on all."""
        if not self.pin:
            return None
        return shares(len(self.ranks))[rank - self.first]

    def environment(self, rank: int) -> dict[str, str]:
        """The whole environment of one worker. BLAS threads that the user has set stay,
        and so does what the allocator was told."""
        threads = str(max(1, cores() // len(self.ranks)))
        meeting = self.rendezvous or f"ipc://{self.folder}/rendezvous"
        master = urlsplit(meeting) if self.rendezvous else None
        chosen = any(name.startswith("MALLOC_") for name in os.environ)
        variables = {
            **dict.fromkeys(THREAD_VARIABLES, threads),
            **({} if chosen else ALLOCATOR),
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(rank - self.first),
            "LOCAL_WORLD_SIZE": str(len(self.ranks)),
            "GROUP_RANK": str(self.node),
            "MASTER_ADDR": master.hostname or "" if master else "127.0.0.1",
            "MASTER_PORT": str(master.port if master else self.port),
            "TORCHELASTIC_RESTART_COUNT": str(self.generation),
            "TORCHELASTIC_MAX_RESTARTS": str(self.restarts),
            "RINGLET_JOB": self.job,
            "RINGLET_GENERATION": str(self.generation),
            "RINGLET_RENDEZVOUS": meeting,
            "RINGLET_TRANSPORT": self.transport,
            "RINGLET_AGENT": "1",
            "PYTHONUNBUFFERED": "1",
            **self.variables,
        }
        if self.address is not None:
            variables["RINGLET_ADDRESS"] = self.address
        if self.timeout is not None:
            variables["RINGLET_TIMEOUT"] = str(self.timeout)
        return variables

    def clean(self) -> None:
        """Remove the folder, with whatever a killed worker left in it."""
        if self.folder is not None:
            remove_folder(self.folder)


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port of the address that was free a moment ago, for scripts that want one."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
