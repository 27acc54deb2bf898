"""This host's part in a job on several hosts, as the options say, checked."""

import os
from dataclasses import dataclass, field

from ringlet.comm.errors import AuthenticationError, CommError
from ringlet.comm.join.addresses import bracketed, is_endpoint, loopback
from ringlet.comm.join.environment import ENCRYPTIONS, INSECURE, check_network
from ringlet.comm.join.key import KEY, KEY_FILE, JobKey, find_key
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.hosts.addresses import host_of, is_own, own_address, resolve
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.hosts.placed import PlacedOptions

FIND_S = 60.0
"""How long host 0's name may be unknown where an engine starts hosts."""

gone: set[int] = set()
"""The hosts whose agents have failed, as far as the launcher that started all over ssh tells."""


@dataclass(frozen=True)
class NodeSpec:
    """What one agent is told to be: host `node` of `nodes`, reached by other hosts at `address`;
    agent 0 listens at `master`. The job can start with as few as `least` hosts, and one that is not
    heard for `silence_s` seconds is lost. `placed` is what an engine has told this launcher."""

    node: int
    nodes: int
    address: str
    master: str
    key: JobKey | None
    least: int
    silence_s: float = 4.5
    over_ssh: bool = False
    placed: PlacedOptions = field(default_factory=PlacedOptions)

    @property
    def endpoint(self) -> str:
        """Where agent 0 listens: tcp://..., or ipc://... if all agents are on this host."""
        folder = self.placed.folder
        return f"tcp://{self.master}" if folder is None else f"ipc://{folder}/agents"

    @property
    def elastic(self) -> bool:
        """Whether the job goes on without hosts that are lost."""
        return self.least < self.nodes


def apply_security(options: HostOptions) -> JobKey | None:
    """Put what the options say about keys into the environment; returns the job's key."""
    if options.encrypt not in (None, *ENCRYPTIONS):
        known = ", ".join(ENCRYPTIONS)
        raise UserError(f"unknown --encrypt {options.encrypt!r}; there are {known}")
    if options.key_file is not None:
        os.environ[KEY_FILE] = str(options.key_file)
        os.environ.pop(KEY, None)
    if options.insecure:
        os.environ[INSECURE] = "1"
    if options.encrypt is not None:
        os.environ["RINGLET_ENCRYPT"] = options.encrypt
    return find_key(os.environ)


def node_spec(options: HostOptions) -> NodeSpec | None:
    """This host's part in a job on several hosts; None for a job on one. Raises UserError
    for options that are not possible."""
    key = apply_security(options)
    least, most = options.range()
    if most == 1 and options.master is None:
        options.check_one_host()
        return None
    place = options if isinstance(options, PlacedOptions) else PlacedOptions()
    if place.folder is not None and options.node_rank is not None:
        node, silence = options.node_rank, options.host_timeout
        return NodeSpec(node, most, loopback(), "", None, least, silence, placed=place)
    if options.master is None or options.node_rank is None:
        raise UserError(
            "several hosts need --master HOST:PORT, an address of host 0, and --node-rank: 0 on "
            "that host, 1, 2, ... on the others"
        )
    if not 0 <= options.node_rank < most:
        raise UserError(
            f"--node-rank is {options.node_rank}; with --nnodes {options.nnodes} it is a number "
            f"from 0 to {most - 1}"
        )
    endpoint = f"tcp://{options.master}"
    may_come_late = place.job or "KUBERNETES_SERVICE_HOST" in os.environ  # a host with its name
    if options.node_rank and may_come_late and is_endpoint(endpoint):
        from ringlet.comm.join.rendezvous import find_host

        with user_errors(CommError):
            find_host(endpoint, options.node_rank, FIND_S, lambda: None, "host")
    master = resolve(options.master)
    if options.node_rank == 0 and not is_own(host_of(master)):
        raise UserError(
            f"{options.master} is not an address of this host: --node-rank 0 runs where --master is"
        )
    if master.endswith(":0") and not options.announce:
        raise UserError("--master needs a port that the other hosts can be told, not 0")
    address = own_address(master, options.interface, options.address)
    with user_errors(AuthenticationError):
        check_network([f"tcp://{master}", f"tcp://{bracketed(address)}"], key)
    if options.node_rank and place.by_engine and not master.startswith("["):
        master = options.master  # by name: with each connection, as its host may come anew
    return NodeSpec(
        options.node_rank,
        most,
        address,
        master,
        key,
        least,
        options.host_timeout,
        options.announce,
        place,
    )
