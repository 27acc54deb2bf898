"""The jobs of this user on this host: each launcher listens on a socket in a private folder, and
tells whoever connects what its ranks are doing (`ringlet ps`)."""

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.folders import check_private, socket_place

VARIABLE = "RINGLET_ENTRY"
"""Holds the socket's path, for workers: they remove it when their launcher no longer can."""

ANSWER_S = 1.0
"""Workers that have not answered by then are too busy, or stopped."""

SUFFIX = ".sock"

_log = logging.getLogger("ringlet")


def run_folders() -> list[Path]:
    """Where launchers of this user may be listed. A new one goes to the first."""
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), str(socket_place())]
    there = [Path(place) for place in places if place and Path(place).is_dir()]
    return [place / f"ringlet-run-{os.getuid()}" for place in dict.fromkeys(there)]


class Listing:
    """This launcher's socket. When a selector finds it readable, call `accept`.

    Where there can be no socket, the job runs unlisted, and the log says why.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = {**facts, "pid": os.getpid(), "began": time.time()}
        self._asking: list[tuple[socket.socket, float]] = []
        self.doing: dict[int, str] = {}  # what ranks have answered
        self._socket = socket.socket(socket.AF_UNIX)
        self.path: Path | None = None
        try:
            self.path = self._bind(run_folders()[0])
        except (OSError, AuthenticationError, IndexError) as error:
            _log.warning("ringlet: `ringlet ps` will not show this job: %s", error)

    def _bind(self, folder: Path) -> Path:
        path = folder / f"{os.getpid()}{SUFFIX}"
        for attempt in range(3):  # another launcher may remove the empty folder in between
            folder.mkdir(mode=0o700, exist_ok=True)
            check_private(folder)
            path.unlink(missing_ok=True)  # of an earlier process with this id
            try:
                self._socket.bind(str(path))
                break
            except FileNotFoundError:
                if attempt == 2:
                    raise
        self._socket.listen()
        self._socket.setblocking(False)
        _sweep(folder)
        return path

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def accept(self) -> bool:
        """Take a question; returns whether there was one, and the workers should be asked."""
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            self._asking.append((connection, time.monotonic() + ANSWER_S))
            self.doing = {}
            return True
        return False

    def answer(self, pids: Mapping[int, int]) -> None:
        """Answer those who ask, once all these ranks have replied or had the time to."""
        for connection, until in list(self._asking):
            import json  # most launchers are never asked

            if time.monotonic() < until and not pids.keys() <= self.doing.keys():
                continue
            ranks = [[rank, pid, self.doing.get(rank)] for rank, pid in pids.items()]
            with contextlib.suppress(OSError), connection:
                connection.sendall(json.dumps({**self._facts, "ranks": ranks}).encode())
            self._asking.remove((connection, until))

    def close(self) -> None:
        """Remove the socket."""
        for connection, _ in self._asking:
            connection.close()
        self._asking.clear()
        self._socket.close()
        if self.path is not None:
            remove(self.path)
            self.path = None


def _sweep(folder: Path) -> None:
    """Remove sockets of launchers that were killed before their workers could remove them."""
    for path in folder.glob(f"*{SUFFIX}"):
        if not Path(f"/proc/{path.stem}").exists():  # it may run in another container
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                    path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a launcher's socket, and the folder after the last."""
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()
