"""`ringlet doctor`: whether this host is ready for ringlet, and what to do where it is not."""

import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgpack
import numpy as np
import zmq

import ringlet
from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.addresses import free_port
from ringlet.comm.join.folders import socket_place
from ringlet.comm.join.key import JobKey, find_key
from ringlet.comm.join.launchers import described, outside_a_step
from ringlet.comm.machine import choices, choices_file, cores
from ringlet.comm.sockets.seals import NEEDED, missing
from ringlet.launcher import spawn
from ringlet.launcher.commands.options import refuse, with_options
from ringlet.launcher.errors import ExitCode, UserError, user_errors
from ringlet.launcher.hosts.agents import open_agent
from ringlet.launcher.hosts.network_agent import NetworkAgent
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.hosts.ssh import SshLauncher
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.environment import THREAD_VARIABLES
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.supervisor import Supervisor
from ringlet.launcher.units import fastest

MIN_SHARED_BYTES = 256 << 20
MIN_FILES = 1024


class NoteError(Exception):
    """What a check raises about something that works, but could work better."""


def versions() -> str:
    """Versions of Python and the libraries."""
    libraries = f"NumPy {np.__version__}, pyzmq {zmq.__version__} on libzmq {zmq.zmq_version()}"
    packed = ".".join(map(str, msgpack.version))
    python = platform.python_version()
    return f"ringlet {ringlet.__version__}, Python {python}, {libraries}, msgpack {packed}"


def blas() -> str:
    """NumPy's BLAS, its number of threads, and whether MKL computes large products in its place."""
    config: Any = np.show_config(mode="dicts")
    built = config["Build Dependencies"]["blas"]
    given = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    threads = f"{', '.join(given)} (as you set it)" if given else "cores / workers each"
    text = f"{built['name']} {built.get('version', '')}; {cores()} cores; threads: {threads}"
    if not any(name in built["name"] for name in ("openblas", "mkl", "accelerate")):
        raise NoteError(f"{text}. A NumPy built with OpenBLAS or MKL is many times faster")
    return f"{text}; {large_products()}"


def large_products() -> str:
    """What computes them, and how fast; raises UserError if RINGLET_BLAS asks for what is not
    there."""
    from ringlet.nn import mkl

    ways: dict[str, Callable[..., Any]] = {}
    with user_errors(mkl.BLASError):
        ways = {mkl.description(): mkl.chosen(), mkl.NUMPY: np.matmul}
    a = np.ones((1024, 1024), np.float32)
    said = []
    for name, product in ways.items():
        seconds = fastest(partial(product, a, a), 5)
        said.append(f"{name} ({2e-9 * len(a) ** 3 / seconds:.0f} GFLOP/s)")
    return f"large products by {', not '.join(said)}"


def shared_memory() -> str:
    """Free space in /dev/shm, and a processor that keeps stores in order (x86)."""
    folder, instead = Path("/dev/shm"), "ranks of one host use sockets, which are slower"
    if not os.access(folder, os.W_OK):
        raise NoteError(f"no /dev/shm: {instead}")
    if platform.machine() not in ("x86_64", "AMD64", "i686"):
        raise NoteError(f"not used on {platform.machine()}: {instead}")
    free = shutil.disk_usage(folder).free
    text = f"{free >> 20} MiB free in /dev/shm"
    if free < MIN_SHARED_BYTES:
        raise NoteError(f"{text}; in a container, use --shm-size=1g, or --transport ipc")
    return text


def sockets() -> str:
    """Loopback ports, the folder for socket files, and the limit on open files."""
    with user_errors(os_error="cannot bind a loopback port"):
        port = free_port()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"loopback port {port}, socket files in {socket_place()}, {files} open files allowed"
    if files < MIN_FILES:
        raise NoteError(f"{text}; many ranks need more: ulimit -n {MIN_FILES}")
    return text


def key() -> str:
    """CURVE, what seals messages, and the job key if one is set."""
    JobKey.new()
    known = find_key(os.environ) is not None
    text = "a job key is set" if known else "no job key is set (several hosts need one)"
    if reason := missing():
        slower = "CURVE encrypts what travels between hosts, which is slower than sealing it"
        raise NoteError(f"{text}; {slower}: {reason} ({NEEDED})")
    from ringlet.comm.sockets.ciphers import faster

    return f"{text}; what travels between hosts is sealed with {faster()}"


def launcher() -> str:
    """What has started this process, as a rank or a launcher here would take it."""
    if text := outside_a_step(os.environ):
        raise NoteError(text)
    return described(os.environ)


def measured() -> str:
    """What ranks that met here have chosen, which later ones take over."""
    found, file = choices(), choices_file()
    if not found:
        return f"nothing of this machine is kept yet in {file}"
    each = [f"{name}: {value}" for name, (value, *_) in found.items()]
    return f"{'; '.join(each)}; kept in {file} (ringlet calibrate --again forgets it)"


def clock() -> str:
    """This host's clock, compared with the file system's."""
    with tempfile.NamedTemporaryFile() as file:
        apart = abs(Path(file.name).stat().st_mtime - time.time())
    if apart > 1.0:
        raise NoteError(f"{apart:.1f} s apart from the file system's: check NTP")
    return "agrees with the file system's"


def timed_sums(world: Any) -> float:
    """What the two ranks do: seconds of the fastest sum; negative if a sum is wrong."""
    total = float(world.all_reduce(np.full(1 << 16, world.rank + 1.0))[-1])
    best = fastest(lambda: world.all_reduce(np.ones(1)), 20)
    return best if total == 3.0 else -1.0


def two_ranks() -> str:
    """An all-reduce of two workers."""
    began = time.perf_counter()
    best = max(spawn(timed_sums, 2, deadline=30.0, timeout=20.0))
    if best < 0:
        raise UserError("two ranks got a wrong sum: please report this")
    seconds = time.perf_counter() - began
    return f"started, joined and ended in {seconds:.1f} s; {best * 1e6:.0f} us a sum"


CHECKS: dict[str, Callable[[], str]] = {
    "versions": versions,
    "BLAS": blas,
    "shared memory": shared_memory,
    "sockets": sockets,
    "encryption": key,
    "launcher": launcher,
    "measured": measured,
    "clock": clock,
    "two ranks": two_ranks,
}


def line(state: str, name: str, text: str) -> str:
    """A finding as it is shown."""
    return f"{state:<5} {name:<14} {text}"


def between_hosts(hosts: HostOptions, timeout: float) -> int:
    """Check the hosts and their network, with one rank on each; returns the exit code."""
    if hosts.over_ssh:
        return SshLauncher(["doctor", f"--timeout={timeout}"], hosts, 1).run()
    screen, states = Screen(), []

    def inform(notice: Notice) -> None:
        if "finding" in notice:
            states.append(notice["finding"][0])
            screen.line(line(*notice["finding"]))

    with open_agent(hosts, 1, WorkerOptions(timeout=timeout)) as agent:
        if not isinstance(agent, NetworkAgent):
            raise UserError("to check between hosts, name at least two: --hosts a,b")
        try:
            job, _ = agent.next_job(0)
        except UserError as error:
            remedy = "is the network between them open, and the address the right one?"
            screen.line(line("bad", "meeting", f"{error}: {remedy}"))
            return ExitCode.FAILED
        if not agent.node:
            there = ", ".join(map(str, agent.assignment.hosts))
            screen.line(line("ok", "meeting", f"{there} have met at {agent.address}"))
        module = "ringlet.launcher.workers.doctor_worker"
        code = Supervisor(job, module, ["{}"], screen=screen, agent=agent, inform=inform).run()
    return code or (ExitCode.FAILED if "bad" in states else ExitCode.OK)


@dataclass(frozen=True)
class DoctorOptions:
    """How long a check between hosts may take."""

    timeout: float = option(20.0, "How long hosts may take to meet and to answer.", unit="seconds")
    workers: int = option(1, "Set by --hosts.", hidden=True)


@with_options(options=DoctorOptions, hosts=HostOptions)
def doctor(context: click.Context, options: DoctorOptions, hosts: HostOptions) -> None:
    """Check whether this host, or several, can run ringlet.

    On one host: versions, BLAS, shared memory, sockets, encryption, which launcher or engine is
    seen, what was measured of this machine, the clock, and an all-reduce of two ranks. With --hosts
    a,b, or the same command on each host with --nnodes, --node-rank and --master: whether the hosts
    meet, their versions and clocks, an all-reduce of one rank on each, and latency and bandwidth
    between host 0 and the others. The exit code is 1 if a check fails.
    """
    if hosts != HostOptions():
        raise click.exceptions.Exit(between_hosts(hosts, options.timeout))
    refuse(context, ["timeout"], "it is for a check between hosts")
    states = []
    for name, check in CHECKS.items():
        try:
            state, text = "ok", check()
        except NoteError as note:
            state, text = "note", str(note)
        except (UserError, AuthenticationError) as error:
            state, text = "bad", str(error)
        except Exception as error:  # a check that crashes is a finding, too
            state, text = "bad", f"{type(error).__name__}: {error}"
        states.append(state)
        click.echo(line(state, name, text))
        sys.stdout.flush()
    raise click.exceptions.Exit(ExitCode.FAILED if "bad" in states else ExitCode.OK)
