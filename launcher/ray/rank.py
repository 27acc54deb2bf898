"""The actor: the process of one rank."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ringlet.comm.join.addresses import free_port
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.ray.cluster import ray_module
from ringlet.launcher.supervisor.environment import Job


class Exited(Exception):
    """A rank has called sys.exit with this code, which means neither success nor "saved"."""

    def __init__(self, rank: int, code: int) -> None:
        super().__init__(rank, code)
        self.rank, self.code = rank, code

    def __str__(self) -> str:
        return f"rank {self.rank} has ended with exit code {self.code}"


class Place(NamedTuple):
    """Where an actor is, and ports that are free there."""

    node: str
    address: str
    ports: list[int]


class Rank:
    """The actor's class."""

    def place(self) -> Place:
        """Where Ray has placed it."""
        ray = ray_module()
        address = ray.util.get_node_ip_address()
        ports = [free_port(address) for _ in range(3)]
        return Place(ray.get_runtime_context().get_node_id(), address, ports)

    def call(self, job: Job, work: Callable[[], Any]) -> Any:
        """Do the work as the rank that the job says."""
        os.environ.update(job.environment(job.first))
        # Imported here: it reads variables.
        from ringlet import comm

        try:
            return work()
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if code in (ExitCode.OK, ExitCode.STOPPED):
                return code
            raise Exited(job.first, code) from None
        except Exception as error:
            error.add_note(f"--- rank {job.first}, on {job.address} ---\n{traceback.format_exc()}")
            raise
        finally:
            comm.shutdown()  # the others learn at once that they wait in vain
            sys.stdout.flush()


def enter(folder: str) -> None:
    """Work in the folder in which the command was given; raises UserError if this host lacks it."""
    try:
        os.chdir(folder)
    except OSError as error:
        rank, address = os.environ["RANK"], os.environ["RINGLET_ADDRESS"]
        raise UserError(
            f"rank {rank} on {address} has no folder {folder} ({error.strerror}): the hosts of the "
            "Ray cluster have to share it, at the same path"
        ) from None


def folder_here() -> str:
    """The folder in which the command was given, for `enter`."""
    return str(Path.cwd())
