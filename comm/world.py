"""The world: the group of all ranks, made once in each process, and its end."""

import atexit
import os
import socket
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import zmq

from ringlet.comm import timeline
from ringlet.comm.arguments import seconds
from ringlet.comm.calls.channel import Channel, Context
from ringlet.comm.calls.progress import Progress
from ringlet.comm.calls.recorded import open_endpoint
from ringlet.comm.calls.recorder import show_on_signal
from ringlet.comm.clocks import compare_clocks, finish
from ringlet.comm.errors import CommError, CommTimeout, PeerLost
from ringlet.comm.faults import OF_MESSAGES, Faults, parse_fault
from ringlet.comm.group import Group
from ringlet.comm.join import absent
from ringlet.comm.join.addresses import local_address
from ringlet.comm.join.environment import (
    JOINED,
    Environment,
    check_not_started_by_a_rank,
    read_environment,
    warn_of_network,
)
from ringlet.comm.join.folders import (
    check_private,
    join_folder,
    leave_folder,
    make_folder,
    socket_path,
)
from ringlet.comm.join.launchers import OVER_MPI
from ringlet.comm.join.meeting import MeetingPoint, numbered
from ringlet.comm.join.rendezvous import Hello, find_host, meet
from ringlet.comm.schedules.choice import LIBRARY, Policy
from ringlet.comm.sockets.endpoint import WORLD, Endpoint
from ringlet.comm.sockets.outbox import Peer

LINGER_S = 5.0
"""How long, at shutdown, what is queued for the peers may take to leave."""

FAILED_LINGER_S = 1.0
"""The same after an error: a peer that hangs takes nothing, and the job should end."""

_world: "_World | None" = None
_joining = threading.Lock()
_when_joined: Callable[[], None] | None = None
_parents: list["_World"] = []
"""The world of the process of which this is a fork; kept, for its sockets are not ours to close."""


class _World:
    """One process's endpoint, progress thread and group of all ranks."""

    def __init__(self, environment: Environment) -> None:
        policy = Policy.parse(environment.algorithm)
        if LIBRARY in policy.pins.values() and environment.transport != "mpi":
            raise CommError(f"all_reduce={LIBRARY} is for messages over MPI: RINGLET_TRANSPORT=mpi")
        self.endpoint = open_endpoint(environment)
        self.endpoint.liveness.agent = environment.agent
        self.transport = environment.transport
        self.context = Context(self.endpoint, policy, seconds(environment.timeout))
        self.progress = Progress(self.endpoint)
        try:
            if environment.size > 1:
                self.context.hosts = _connect(self.endpoint, environment)
            channel = Channel(self.context, WORLD, tuple(range(environment.size)))
            self.group = Group(channel, self.progress)
            if environment.transport == "auto":
                self.group._memory.open()
            if channel.shared is None and self.context.policy.wants_links:
                # Only where collectives travel as messages: it takes some milliseconds.
                if environment.links is not None:
                    self.context.links = environment.links
                elif environment.size > 1:
                    self.context.links = self.group.measure_links()
                channel.choose_anew()
            if timeline.current is not None:
                compare_clocks(self.group, self.context.hosts)
        except BaseException:
            timeline.stop()
            self.endpoint.close(0)
            raise

    def close(self) -> None:
        self.context.close(
            f"rank {self.endpoint.rank} has left the world: comm.shutdown() was called"
        )
        self.endpoint.inbox.wake()
        self.progress.stop()
        self.endpoint.close(FAILED_LINGER_S if self.context.failed else LINGER_S)
        if self.endpoint.carrier is not None:
            self.endpoint.carrier.leave(self.context.failed)

    def leave_to_parent(self) -> None:
        """This process is a fork of the one that made the world."""
        self.context.close(
            f"process {os.getpid()} was forked from rank {self.endpoint.rank}, and a world belongs "
            "to the process that made it: fork before comm.init(), or start processes anew "
            "(multiprocessing's spawn)"
        )
        self.endpoint.tcp.leave()


def init(timeout: float | None = None, algorithm: str | None = None) -> Group:
    """Join the world that the environment describes; returns its group, also when called again.

    Reads RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them,
    and RINGLET_*; without any of them it makes a world of one. `timeout`, in seconds, bounds the
    rendezvous and is the default of every later call (else RINGLET_TIMEOUT, else 300).
    `algorithm`, the same on every rank, replaces RINGLET_ALGORITHM: auto (the default), first, or
    for instance all_reduce=ring,broadcast=chain.

    Raises CommTimeout with the ranks that did not come, CommError for a wrong environment, and
    AuthenticationError if the job key is missing or differs.
    """
    global _world
    if timeout is not None:
        timeout = seconds(timeout)
    with _joining:  # of several threads, one joins for all
        if _world is None:
            environment = read_environment(timeout=timeout)
            if algorithm is not None:
                environment = replace(environment, algorithm=algorithm)
            check_not_started_by_a_rank(environment)
            if environment.rendezvous == OVER_MPI:
                from ringlet.comm.mpi.meeting import settle

                environment = settle(environment)
            _world = _World(environment)
            os.environ[JOINED] = f"{os.getpid()} {environment.place}"
            atexit.register(shutdown)
            show_last_operations_on_signal()
            if _when_joined is not None:
                _when_joined()
        return _world.group


def when_joined(tell: Callable[[], None]) -> None:
    """Call `tell()` once this process has joined a world: for launchers."""
    global _when_joined
    _when_joined = tell


def shutdown() -> None:
    """Leave the world: deliver what was sent, say goodbye, close. Also runs at interpreter exit.

    Peers that still wait for this rank get PeerLost. May be called twice, or without `init`.
    """
    global _world
    if _world is not None:
        world, _world = _world, None
        os.environ.pop(JOINED, None)
        absent.lost.clear()
        atexit.unregister(shutdown)
        finish(world.group, world.context.hosts, world.context.failed)
        world.close()


def _after_fork() -> None:
    """In the child."""
    global _world, _joining
    _joining = threading.Lock()  # another thread of the parent may have held it
    if _world is not None:
        _world.leave_to_parent()
        _parents.append(_world)
        _world = None
        atexit.unregister(shutdown)


os.register_at_fork(after_in_child=_after_fork)


def show_last_operations_on_signal() -> None:
    """Make SIGUSR1 show this rank's last operations on stderr; `init` does that too."""
    show_on_signal(lambda: "no world" if _world is None else _world.context.recorder.text())


def last_operation() -> str:
    """This rank's last operation and its age; empty without a world. For any thread."""
    return "" if _world is None else _world.context.recorder.last()


def in_flight() -> tuple[bool, int | None]:
    """Whether operations of this rank are in flight, and a rank that one of them waits for. For
    any thread."""
    return (False, None) if _world is None else _world.context.recorder.in_flight()


def inject(faults: Iterable[str]) -> None:
    """Make faults happen to this rank, instead of those of an earlier call: see faults.py.

    Raises ValueError for a text that is no fault, or one of messages where ranks share memory.
    """
    if _world is None:
        raise CommError("faults happen in a world: call comm.init() first")
    parsed = []
    for text in faults:
        parsed.append(fault := parse_fault(text))
        if fault.kind in OF_MESSAGES and _world.transport == "auto":
            raise ValueError(f"{text!r} needs messages: use the transport ipc or tcp")
    endpoint = _world.endpoint
    mine = any(fault.rank == endpoint.rank for fault in parsed)
    endpoint.faults = Faults(parsed, endpoint.rank, endpoint.addresses) if mine else None


def report_lost(rank: int, cause: str) -> None:
    """Announce that a rank has ended, and how; every wait for it raises PeerLost at once.

    For launchers, which see a process end before its peers do. For any thread.
    """
    if _world is None:
        absent.lost[rank] = cause
    else:
        _world.endpoint.liveness.announce(rank, cause)
        _world.endpoint.inbox.wake()


def _connect(endpoint: Endpoint, environment: Environment) -> dict[int, str]:
    """Listen, meet the others, connect to them; returns what tells their hosts apart. Leaves
    nothing behind, whether it succeeds or not."""
    try:
        folder = _private_folder(environment)
        try:
            return _join_others(endpoint, environment, folder)
        finally:
            endpoint.listener.hide()
            if folder is not None:
                leave_folder(folder)
    except (OSError, zmq.ZMQError) as error:
        where = environment.rendezvous
        raise CommError(f"rank {environment.rank} cannot join at {where}: {error}") from error


def _join_others(
    endpoint: Endpoint, environment: Environment, folder: Path | None
) -> dict[int, str]:
    deadline = time.monotonic() + environment.timeout
    warn_of_network(environment)

    def check(*more: dict[int, str]) -> None:
        for rank, cause in ChainMap(absent.lost, *more).items():
            raise PeerLost(f"rank {environment.rank}: rendezvous lost rank {rank}: {cause}", rank)

    check_all = partial(check, absent.ended)  # until the meeting is over

    rendezvous = find_host(environment.rendezvous, environment.rank, environment.timeout, check_all)
    addresses = {}
    if folder is not None and environment.transport != "tcp":
        addresses["ipc"] = endpoint.listener.bind_ipc(socket_path(folder, environment.rank))
    if environment.uses_tcp:
        host = environment.address or local_address(rendezvous)
        addresses["tcp"] = endpoint.listener.take_port(host)
    hello = {
        "job": environment.job,
        "generation": environment.generation,
        "rank": environment.rank,
        "size": environment.size,
        "host": environment.host,
        "name": socket.gethostname(),
        "pid": os.getpid(),
        "addresses": addresses,
        "token": endpoint.token,
        "seal": endpoint.seals.offer,
        "algorithm": f"{environment.algorithm} {environment.links or ''}".strip(),
    }

    table = _meet(environment, rendezvous, hello, check_all)
    # Rank 0's token is this start's own: frames of any other are strangers'.
    endpoint.job = f"{environment.job}/{table[0]['token']}"
    peers = {
        rank: _peer(environment, entry)
        for rank, entry in enumerate(table)
        if rank != environment.rank
    }
    tick = partial(_check_greetings, endpoint, environment, check, deadline)
    endpoint.connect(peers, tick, plain=environment.transport != "mpi")
    if environment.transport == "mpi":
        from ringlet.comm.mpi.fabric import connect

        endpoint.carry_by(connect(environment.rank, environment.size, deadline, check_all))
    endpoint.form(tick)
    return {rank: entry["host"] for rank, entry in enumerate(table)}


def _meet(
    environment: Environment, rendezvous: str, hello: Hello, check: Callable[[], None]
) -> list[Hello]:
    """The hellos of all ranks."""
    if rendezvous == OVER_MPI:
        from ringlet.comm.mpi import meeting

        return meeting.meet(hello, environment.timeout, check)
    point = MeetingPoint(rendezvous, environment.key, environment.spare_ports)
    return meet(point, hello, environment.timeout, check)


def _check_greetings(
    endpoint: Endpoint, environment: Environment, check: Callable[[], None], deadline: float
) -> None:
    """Raise an error if a peer can no longer greet this rank, or has not in time."""
    check()
    gone = endpoint.liveness.missing(tuple(endpoint.peers), None)
    if gone is not None:
        text = f"rank {environment.rank}: first greeting lost rank {gone[0]}: {gone[1]}"
        raise PeerLost(text, gone[0])
    if time.monotonic() > deadline:
        missing = endpoint.missing()
        raise CommTimeout(
            f"rank {environment.rank}: no greeting from {numbered('rank', missing)} within "
            f"{environment.timeout:.0f} s, at {[endpoint.peers[rank].address for rank in missing]}",
            missing,
        )


def _peer(environment: Environment, entry: Hello) -> Peer:
    """A peer, reached by a socket file on one host, by TCP between hosts."""
    addresses: dict[str, str] = entry["addresses"]
    kind = "ipc" if entry["host"] == environment.host and "ipc" in addresses else "tcp"
    if kind not in addresses:
        raise CommError(
            f"rank {environment.rank} and rank {entry['rank']} share no way to talk: it listens at "
            f"{list(addresses.values())} on host {entry['name']}; RINGLET_TRANSPORT must be the "
            "same on all ranks"
        )
    rank, name, pid = entry["rank"], entry["name"], entry["pid"]
    return Peer(rank, name, pid, addresses[kind], entry["token"], entry["seal"])


def _private_folder(environment: Environment) -> Path | None:
    """A folder that only this user can enter, the launcher's or a new one; None if not needed."""
    folder = environment.ipc_folder
    if folder is None:
        return None if environment.transport == "tcp" else make_folder()
    if environment.agent:
        check_private(folder)
    else:
        join_folder(folder)
    return folder
