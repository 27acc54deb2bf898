"""`ringlet calibrate`: measure this machine, once; what plans need is remembered."""

import contextlib
import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

import ringlet
from ringlet.comm import machine
from ringlet.comm.machine import cores
from ringlet.launcher.commands.options import with_options, words_given
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.errors import ExitCode, UserError, user_errors
from ringlet.launcher.hosts.agents import open_agent
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.environment import THREAD_VARIABLES
from ringlet.launcher.supervisor.options import JoinOptions, WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.supervisor import Supervisor
from ringlet.launcher.units import seconds_text
from ringlet.nn import mkl
from ringlet.nn.files import read_toml
from ringlet.runtime.planning.calibrate import SECONDS
from ringlet.runtime.planning.cluster import Cluster, parse_cluster
from ringlet.runtime.planning.figures import ClusterError

VERSION = 1
"""Of what is measured: an older cache is measured again."""


@dataclass(frozen=True)
class CalibrateOptions:
    """For how many workers, for how long, and where to."""

    workers: int = option(
        0, "Number of worker processes on each host.", "-n", "--workers", least=0, metavar="N",
        shown="cores",
    )  # fmt: skip
    out: Path | None = option(
        None, "File to write the description to, on host 0.", metavar="FILE.toml"
    )
    seconds: float = option(SECONDS, "About how long to measure.", unit="seconds", least=0.0)
    again: bool = option(False, "Measure anew, and forget what starts of jobs have measured here.")


@with_options(options=CalibrateOptions, join=JoinOptions, hosts=HostOptions)
def calibrate(
    context: click.Context, options: CalibrateOptions, join: JoinOptions, hosts: HostOptions
) -> None:
    """Measure this machine: its operators, workers and links.

    The description is the same TOML as one of a cluster that is written by hand, for
    `ringlet plan --cluster` and `runtime.load_cluster`. It is remembered under XDG_CACHE_HOME
    (~/.cache), for this processor, number of workers, transport and NumPy, and is what
    `ringlet plan` takes when no cluster is named. Several hosts, which --hosts names or which run
    the same command with --nnodes, --node-rank and --master, are measured each time, with the
    network between them: use --out.
    """
    join.check()
    if options.out is not None:
        if options.out.is_dir():
            raise UserError(f"--out {options.out} is a folder; name a file")
        if not options.out.parent.is_dir():
            raise UserError(f"--out {options.out}: there is no folder {options.out.parent}")
    screen, workers = Screen(), options.workers or cores()
    if hosts.over_ssh:
        # Imported here, as most machines are calibrated alone.
        from ringlet.launcher.hosts.ssh import SshLauncher

        command = ["calibrate", *words_given(context, without=hosts.left_out)]
        raise click.exceptions.Exit(SshLauncher(command, hosts, workers).run())
    alone, path = hosts == HostOptions(), cache_file(workers, join.transport)
    found = remembered(path) if alone and not options.again else None
    if options.again:
        with contextlib.suppress(OSError):
            machine.choices_file().unlink()
    if found is not None:
        screen.line(f"as it was measured before (--again measures anew): {path}")
    else:
        found = _measured(workers, join, options.seconds, screen, hosts)
    if found is None:
        return  # host 0 has the description
    if alone:
        machine.write_whole(path, str(found))
    if options.out is not None:
        with user_errors(os_error=f"cannot write --out {options.out}"):
            options.out.write_text(str(found), encoding="utf-8")
    for line in table(found):
        screen.line(line)


def calibrated(workers: int, transport: str = "auto") -> Cluster:
    """This machine with so many workers, as it was measured before, or as it is measured now.

    Raises UserError if it cannot be measured.
    """
    path = cache_file(workers, transport)
    found = remembered(path)
    if found is None:
        found = _measured(workers, JoinOptions(transport), SECONDS, Screen())
        assert found is not None  # this is host 0
        machine.write_whole(path, str(found))
    return found


def cache_file(workers: int, transport: str) -> Path:
    """Where the description of this machine is remembered."""
    blas: Any = np.show_config(mode="dicts")
    return machine.cache_file(
        f"machine-{workers}-{transport}",
        ".toml",
        version=VERSION,
        ringlet=ringlet.__version__,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        numpy=np.__version__,
        blas=blas["Build Dependencies"]["blas"],
        mkl=[str(mkl.find()), os.environ.get(mkl.VARIABLE, "")],
        threads={name: os.environ.get(name, "") for name in THREAD_VARIABLES},
        workers=workers,
        transport=transport,
    )


def remembered(path: Path) -> Cluster | None:
    """What was measured before; None if there is none, or it is damaged."""
    try:
        return parse_cluster(read_toml(path, ClusterError))
    except ClusterError:
        return None


def _measured(
    workers: int, join: JoinOptions, seconds: float, screen: Screen,
    hosts: HostOptions = HostOptions(),  # noqa: B008 - frozen
) -> Cluster | None:  # fmt: skip
    """Start the workers, and let them measure; None on other hosts than host 0."""
    texts, load = list[str](), os.getloadavg()[0]
    if load > cores() / 2:
        screen.say(
            f"this machine is busy (a load of {load:.1f} on {cores()} cores): what is measured by "
            "the clock, links above all, is slower than on a free one"
        )

    def inform(notice: Notice) -> None:
        if "measuring" in notice:
            screen.line(f"measuring {notice['measuring']} ({workers} workers, {join.transport})")
        texts.extend([notice["cluster"]] if "cluster" in notice else [])

    task, module = json.dumps({"seconds": seconds}), "ringlet.launcher.workers.calibrate_worker"
    with open_agent(hosts, workers, WorkerOptions(join.transport, join.timeout)) as agent:
        job, _ = agent.next_job(0)
        supervisor = Supervisor(job, module, [task], screen=screen, agent=agent, inform=inform)
        with progress("measuring", screen if screen.live else None, seconds):
            code = supervisor.run()
    if code > ExitCode.SIGNAL:
        raise click.exceptions.Exit(code)
    if code == ExitCode.OK and hosts.node_rank:
        return None
    if code != ExitCode.OK or not texts:
        raise UserError("this machine could not be measured: its workers failed (see above)")
    with user_errors(ClusterError):
        return parse_cluster(tomllib.loads(texts[-1]))


def table(found: Cluster) -> list[str]:
    """The figures that matter most, for people."""
    device = found.device
    peak = max(device.peak.values())
    rows = [
        ("processor", device.name),
        ("workers", str(found.devices)),
        ("products", f"{peak / 1e9:.0f} GFLOP/s at best, {len(device.operators)} operators timed"),
        ("memory", f"{device.bandwidth / 1e9:.1f} GB/s, {device.memory / 1e9:.1f} GB a worker"),
        ("an operation", f"{seconds_text(device.kernel)} at least"),
    ]
    for count, factor in found.slowdown.neighbours:
        rows.append((f"{count:.0f} workers", f"each computes {factor:.2f} times as long"))
    for tier in found.links:
        figures = [seconds_text(tier.latency), f"{tier.bandwidth / 1e9:.2f} GB/s"]
        figures += [f"{seconds_text(tier.overhead)} a message"] if tier.overhead else []
        rows.append((f"{tier.name}, {tier.ranks} ranks", ", ".join(figures)))
    if found.ranks > 1:
        rows.append(("a sum", f"costs {found.slowdown.sums:.2f} of its seconds beside computing"))
    return [f"{name:24}{text}" for name, text in rows]
