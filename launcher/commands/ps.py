"""`ringlet ps`: this user's jobs on this host, and what each rank is doing now."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.folders import check_private
from ringlet.launcher.supervisor.listing import ANSWER_S, SUFFIX, remove, run_folders

TIMEOUT_S = ANSWER_S + 2.0
MAX_BYTES = 16 << 20

STATES = {"T": "stopped by a signal", "t": "held by a debugger", "D": "waiting for a disk",
          "Z": "has ended"}  # fmt: skip


def ps() -> None:
    """Show your jobs on this host, and what each rank is doing."""
    empty = True
    for path in entries():
        found = ask(path)
        if found is None:
            remove(path)
            continue
        empty = False
        for line in lines(found):
            typer.echo(line)
    if empty:
        typer.echo("no job of yours runs on this host")


def entries() -> list[Path]:
    """The sockets of this user's launchers, the newest last."""
    paths = []
    for folder in run_folders():
        try:
            check_private(folder)
        except FileNotFoundError:
            continue
        except AuthenticationError as error:
            typer.echo(f"ringlet: {error}", err=True)
            continue
        paths += [path for path in folder.iterdir() if path.suffix == SUFFIX]
    return sorted(paths, key=lambda path: path.stat().st_mtime)


def ask(path: Path) -> dict[str, Any] | None:
    """What a launcher answers; None if it has ended."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(path))
            data = b""
            while (more := connection.recv(1 << 16)) and len(data) < MAX_BYTES:
                data += more
        except TimeoutError:
            return {"pid": int(path.stem), "silent": True}
        except OSError:
            return None
    try:
        return dict(json.loads(data)) if data else None  # it is about to end
    except (ValueError, TypeError, RecursionError):
        return None


def lines(job: dict[str, Any]) -> Iterator[str]:
    """A job, for people."""
    if job.get("silent"):
        yield f"pid {job['pid']} does not answer ({_state(job['pid'])})"
        return
    start = f", start {job['generation'] + 1}" if job["generation"] else ""
    age = round(time.time() - job["began"])
    here = f", {len(job['ranks'])} of them here" if len(job["ranks"]) < job["size"] else ""
    yield (
        f"job {job['job']}  pid {job['pid']}  {job['command']}\n"
        f"  {job['size']} rank{'s' if job['size'] > 1 else ''}{here}{start}, for "
        f"{age // 3600}:{age // 60 % 60:02d}:{age % 60:02d}"
    )
    for rank, pid, doing in job["ranks"]:
        yield f"  rank {rank:<4} pid {pid:<8} {doing or f'does not answer ({_state(pid)})'}"


def _state(pid: int) -> str:
    """The state of a process, from the kernel (proc(5))."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "has ended"
    return STATES.get(letter, "busy")
