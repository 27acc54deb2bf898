"""Launchers that an engine has started as one of several (`srun ringlet run ...`): each is the
agent of its own workers, as if the command line said which host it is and where they meet."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringlet.comm.errors import CommError
from ringlet.comm.join.environment import INSECURE, read_environment
from ringlet.comm.join.key import KEY, KEY_FILE
from ringlet.comm.join.launchers import OVER_MPI, task_of
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.hosts.options import HostOptions


@dataclass(frozen=True)
class PlacedOptions(HostOptions):
    """The options of such a launcher: it is task `task` of `tasks` on this host. They meet in the
    private `folder` if all are on one host, else at --master or at a `spare` port there."""

    task: int = 0
    tasks: int = 1
    workers: int = 1
    job: str = ""
    folder: Path | None = None
    spare: tuple[int, ...] = ()

    @property
    def by_engine(self) -> bool:
        """Whether an engine has started this launcher, and may start others anew."""
        return self.nnodes != "1"


def placed(options: HostOptions, variables: Mapping[str, str] = os.environ) -> HostOptions:
    """The options, as PlacedOptions if an engine has started this process as one of several and
    they do not say themselves which hosts there are. Raises UserError."""
    given = options.nnodes != "1" or options.node_rank is not None or options.master is not None
    started = variables.get("RINGLET_AGENT") == "1" or "TORCHELASTIC_RUN_ID" in variables
    if given or started or options.over_ssh:
        return options
    if variables.get("RINGLET_RENDEZVOUS") == OVER_MPI:
        raise UserError(
            "RINGLET_RENDEZVOUS=mpi is for scripts that mpirun starts by themselves; launchers "
            "that it starts meet as docs/how-to/engines.md says"
        )
    with user_errors(CommError):
        task = task_of(variables)
        if task is None or task["WORLD_SIZE"] == "1":
            return options
        # The same checks as for a rank; the key is read when they are to meet.
        unused = {KEY: "", KEY_FILE: "", INSECURE: "1", "RINGLET_TRANSPORT": "auto"}
        found = read_environment({**task, **unused})
    number, local = task.get("LOCAL_RANK", "0"), found.local_size or found.size
    if not number.isdecimal() or int(number) >= local:
        raise UserError(f"this is task {number!r} of {local} on this host, as an engine says")
    more: dict[str, Any] = {"nnodes": str(found.size), "node_rank": found.rank}
    if found.ipc_folder is None:
        more["master"] = found.rendezvous.removeprefix("tcp://")
    workers = task.get("PET_NPROC_PER_NODE", "")
    return PlacedOptions(
        **{**vars(options), **more},
        task=int(number),
        tasks=found.local_size or 1,
        workers=int(workers) if workers.isdecimal() and workers != "0" else 1,
        job=found.job,
        folder=found.ipc_folder,
        spare=found.spare_ports,
    )
