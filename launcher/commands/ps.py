"""`ringlet ps`: this user's jobs on this host, and what each rank is doing now."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.folders import check_private
from ringlet.launcher.commands.options import with_options
from ringlet.launcher.supervisor.listing import (
    ANSWER_S,
    has_ended,
    pid_of,
    remove,
    run_folders,
    run_name,
)
from ringlet.launcher.supervisor.process import state_of

TIMEOUT_S = ANSWER_S + 2.0
MAX_BYTES = 16 << 20

STATES = {"T": "stopped by a signal", "t": "held by a debugger", "D": "waiting for a disk",
          "Z": "has ended"}  # fmt: skip


@with_options()
def ps() -> None:
    """Show your jobs on this host, and what each rank is doing."""
    empty = True
    for path in entries():
        if has_ended(path):
            remove(path)
        elif (found := ask(path)) is not None:
            empty = False
            for line in lines(found):
                click.echo(line)
    if empty:
        click.echo("no job of yours runs on this host")


def entries() -> list[Path]:
    """The sockets of this user's launchers, the newest last: those where a launcher started from
    here would be listed, and, since others have had another TMPDIR, those that the kernel knows."""
    folders = {*run_folders(), *(path.parent for path in _bound())}
    found = {}
    for folder in folders:
        try:
            check_private(folder)
            for path in folder.iterdir():
                if pid_of(path) is not None and path.is_socket():
                    status = path.lstat()
                    found[status.st_dev, status.st_ino] = (status.st_mtime, path)
        except AuthenticationError as error:
            click.echo(f"ringlet: {error}", err=True)
        except OSError:  # it has gone in the meantime, or is not for us
            continue
    return [path for _, path in sorted(found.values())]


def _bound() -> Iterator[Path]:
    """Sockets that are open on this host and have such names (proc(5), /proc/net/unix)."""
    try:
        lines = Path("/proc/net/unix").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        path = Path(os.fsdecode(line.split(None, 7)[-1]))
        if pid_of(path) is not None and path.parent.name == run_name():
            yield path


def ask(path: Path) -> dict[str, Any] | None:
    """What a launcher answers; None if it has ended."""
    silent = {"pid": pid_of(path), "silent": True}
    data = b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        while (more := connection.recv(1 << 16)) and len(data) < MAX_BYTES:
            data += more
    if not data and not path.exists():
        return None
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return silent


def lines(job: dict[str, Any]) -> Iterator[str]:
    """A job, for people."""
    if "silent" in job:
        yield f"pid {job['pid']} does not answer ({state_in_words(job['pid'])})"
        return
    start = f", start {job['generation'] + 1}" if job["generation"] else ""
    age = round(time.time() - job["began"])
    here = f", {len(job['ranks'])} of them here" if len(job["ranks"]) < job["size"] else ""
    yield (
        f"job {job['job']}  pid {job['pid']}  {job['command']}\n"
        f"  {job['size']} rank{'s' if job['size'] > 1 else ''}{here}{start}, for "
        f"{age // 3600}:{age // 60 % 60:02d}:{age % 60:02d}"
    )
    if job.get("folder"):
        yield f"  in {job['folder']}"
    for rank, pid, doing, *_ in job["ranks"]:
        yield f"  rank {rank:<4} pid {pid:<8} {doing or f'does not answer ({state_in_words(pid)})'}"


def state_in_words(pid: int) -> str:
    """The state of a process, in words."""
    letter = state_of(pid)
    return STATES.get(letter, "busy") if letter else "has ended"
