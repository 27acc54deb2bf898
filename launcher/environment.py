"""What workers find in their environment: who they are, how to meet, and how to use the host."""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FOLDER_PREFIX = "ringlet-"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Job:
    """One start of some workers on this host. `variables` are more of their environment.

    `folder` is private (0700); the rendezvous' socket file lies in it until all have met.
    """

    size: int
    transport: str = "auto"
    timeout: float | None = None
    job: str = field(default_factory=lambda: secrets.token_hex(8))
    port: int = field(default_factory=lambda: free_port())
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX)))
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self, rank: int) -> dict[str, str]:
        """The whole environment of one worker. BLAS threads that the user has set stay."""
        threads = str(max(1, cores() // self.size))
        variables = {
            **dict.fromkeys(THREAD_VARIABLES, threads),
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(self.size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
            "RINGLET_JOB": self.job,
            "RINGLET_GENERATION": "0",
            "RINGLET_RENDEZVOUS": f"ipc://{self.folder}/rendezvous",
            "RINGLET_TRANSPORT": self.transport,
            "RINGLET_AGENT": "1",
            "PYTHONUNBUFFERED": "1",
            **self.variables,
        }
        if self.timeout is not None:
            variables["RINGLET_TIMEOUT"] = str(self.timeout)
        return variables

    def clean(self) -> None:
        """Remove the folder, with whatever a killed worker left in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago, for scripts that want one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
