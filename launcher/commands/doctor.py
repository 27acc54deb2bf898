"""`ringlet doctor`: whether this host has what ringlet needs, and what to do where it has not."""

import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ringlet.comm.errors import AuthenticationError
from ringlet.launcher.commands.doctor_hosts import between_hosts, line
from ringlet.launcher.commands.options.groups import with_groups
from ringlet.launcher.commands.options.hosts import HostOptions
from ringlet.launcher.errors import ExitCode
from ringlet.launcher.supervisor.environment import THREAD_VARIABLES, cores, free_port

LEAST_SHARED_BYTES = 256 << 20
LEAST_FILES = 1024
IPC_FOLDER_BYTES = 70
"""A longer TMPDIR leaves no room for the names of sockets (107 bytes in all)."""


class Finding(NamedTuple):
    """What one look found. `state` is ok, note (works, but worse than it could) or bad."""

    state: str
    text: str


def versions() -> Finding:
    """Python and the libraries."""
    import msgpack
    import numpy as np
    import zmq

    import ringlet

    python = platform.python_version()
    libraries = f"NumPy {np.__version__}, pyzmq {zmq.__version__} on libzmq {zmq.zmq_version()}"
    packed = ".".join(map(str, msgpack.version))
    return Finding(
        "ok", f"ringlet {ringlet.__version__}, Python {python}, {libraries}, msgpack {packed}"
    )


def blas() -> Finding:
    """NumPy's BLAS, and its threads."""
    import numpy as np

    config: Any = np.show_config(mode="dicts")
    built = config["Build Dependencies"]["blas"]
    given = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    threads = f"{', '.join(given)} (as you set it)" if given else "cores / workers each"
    text = f"{built['name']} {built.get('version', '')}; {cores()} cores; threads: {threads}"
    if "openblas" in built["name"] or "mkl" in built["name"] or "accelerate" in built["name"]:
        return Finding("ok", text)
    return Finding("note", f"{text}. An OpenBLAS or MKL build of NumPy is many times faster")


def shared_memory() -> Finding:
    """Room in /dev/shm, and a processor whose stores are seen in order."""
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        return Finding("note", "no /dev/shm here: ranks of one host talk through sockets, slower")
    if platform.machine() not in ("x86_64", "AMD64", "i686"):
        text = f"not used on {platform.machine()}: ranks of one host talk through sockets"
        return Finding("note", text)
    free = shutil.disk_usage(folder).free
    text = f"{free >> 20} MiB free in /dev/shm"
    if free < LEAST_SHARED_BYTES:
        return Finding("note", f"{text}; in a container: --shm-size=1g. Sockets do without")
    return Finding("ok", text)


def sockets() -> Finding:
    """Loopback ports, the folder for socket files, and how many files may be open."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > IPC_FOLDER_BYTES:
        return Finding("bad", f"{folder} is too long for socket files: set TMPDIR to a shorter one")
    try:
        port = free_port()
    except OSError as error:
        return Finding("bad", f"no port of the loopback can be bound: {error.strerror}")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"port {port} of the loopback, socket files in {folder}, {files} open files allowed"
    if files < LEAST_FILES:
        return Finding("note", f"{text}; many ranks need more: ulimit -n {LEAST_FILES}")
    return Finding("ok", text)


def key() -> Finding:
    """CURVE, and the job key if one is set."""
    from ringlet.comm.join.key import JobKey, find_key

    try:
        JobKey.new()
        found = find_key(os.environ)
    except AuthenticationError as error:
        return Finding("bad", str(error))
    if found is None:
        return Finding("ok", "CURVE is there; no job key is set (several hosts need one)")
    return Finding("ok", "CURVE is there, and a job key is set")


def clock() -> Finding:
    """The clock, against that of the file system."""
    with tempfile.NamedTemporaryFile() as file:
        apart = abs(Path(file.name).stat().st_mtime - time.time())
    if apart > 1.0:
        return Finding("note", f"the file system's is {apart:.1f} s apart: look at NTP")
    return Finding("ok", "agrees with the file system's")


def doctors_sum(world: Any) -> float:
    """What the two ranks do."""
    import numpy as np

    total = float(world.all_reduce(np.full(1 << 16, world.rank + 1.0))[-1])
    best = 1e9
    for _ in range(20):
        began = time.perf_counter()
        world.all_reduce(np.ones(1))
        best = min(best, time.perf_counter() - began)
    return best if total == 3.0 else -1.0


def two_ranks() -> Finding:
    """Two workers that add."""
    from ringlet.launcher import spawn
    from ringlet.launcher.testing.pool import RanksFailed

    began = time.perf_counter()
    try:
        best = max(spawn(doctors_sum, 2, deadline=30.0, timeout=20.0))
    except RanksFailed as error:
        return Finding("bad", str(error))
    if best < 0:
        return Finding("bad", "two ranks got a wrong sum: please report this")
    seconds = time.perf_counter() - began
    return Finding("ok", f"started, joined and ended in {seconds:.1f} s; {best * 1e6:.0f} us a sum")


LOOKS: dict[str, Callable[[], Finding]] = {
    "versions": versions,
    "BLAS": blas,
    "shared memory": shared_memory,
    "sockets": sockets,
    "encryption": key,
    "clock": clock,
    "two ranks": two_ranks,
}


@with_groups(hosts=HostOptions)
def doctor(
    timeout: Annotated[
        float, typer.Option(help="Seconds in which hosts have to meet and to answer.")
    ] = 20.0,
    workers: Annotated[int, typer.Option(hidden=True)] = 1,
    *,
    hosts: HostOptions,
) -> None:
    """Look whether this host has what ringlet needs: versions, BLAS, shared memory, sockets,
    encryption, the clock, and an all-reduce of two ranks. Exit code 1 if something is bad.

    With --hosts a,b, or the same command on each host with --nnodes, --node-rank and --master:
    whether the hosts meet, their versions and clocks, an all-reduce of a rank on each, and the
    latency and bandwidth between host 0 and the others.
    """
    if hosts.over_ssh or hosts.master is not None:
        raise typer.Exit(between_hosts(hosts, timeout))
    states = []
    for name, look in LOOKS.items():
        try:
            finding = look()
        except Exception as error:  # a patient that breaks the doctor is a finding, too
            finding = Finding("bad", f"{type(error).__name__}: {error}")
        states.append(finding.state)
        typer.echo(line(finding.state, name, finding.text))
        sys.stdout.flush()
    raise typer.Exit(ExitCode.FAILED if "bad" in states else ExitCode.OK)
