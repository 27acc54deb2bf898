"""The jobs of this user on this host: each launcher listens on a socket in a private folder, and
tells whoever connects what its ranks are doing (`ringlet ps`)."""

import contextlib
import errno
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.folders import check_private, socket_place

ANSWER_S = 1.0
"""Workers that have not answered by then are too busy, or stopped; so are those who ask, if they
have not taken the answer as much later."""

MOST = 32
"""Questions that are answered at a time; of more, the oldest are dropped."""

STALE_S = 60.0
"""So old is no socket of a launcher that has yet to listen."""

_NAME = re.compile(r"(\d+)(-[0-9a-f]{4})?\.sock")

_log = logging.getLogger("ringlet")


def run_folders() -> list[Path]:
    """Where launchers of this user may be listed. A new one goes to the first that it can use."""
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), str(socket_place())]
    there = [Path(place) for place in places if place and Path(place).is_dir()]
    return [place / run_name() for place in dict.fromkeys(there)]


def run_name() -> str:
    """The name of this user's folders."""
    return f"ringlet-run-{os.getuid()}"


def pid_of(path: Path) -> int | None:
    """The launcher whose socket has this name; None if the name is no launcher's."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


@dataclass
class _Question:
    connection: socket.socket
    until: float
    answer: memoryview | None = None


class Listing:
    """This launcher's socket. When a selector finds it readable, call `accept`.

    Where there can be no socket, the job runs unlisted, and the log says why.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = {**facts, "pid": os.getpid(), "began": time.time()}
        self._asking: list[_Question] = []
        # What ranks have answered: their last operation; their state, and the rank they wait for.
        self.doing: dict[int, str] = {}
        self.states: dict[int, tuple[str, int | None]] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self.path: Path | None = None
        reason: Exception | str = "there is no folder for it"
        for folder in run_folders():
            try:
                self.path = self._bind(folder)
                return
            except (OSError, AuthenticationError) as error:
                reason = error
        _log.warning("ringlet: `ringlet ps` will not show this job: %s", reason)

    def _bind(self, folder: Path) -> Path:
        # The random part is for launchers with the same id in containers that share the folder.
        path = folder / f"{os.getpid()}-{secrets.token_hex(2)}.sock"
        for attempt in range(3):  # another launcher may remove the empty folder in between
            folder.mkdir(mode=0o700, exist_ok=True)
            check_private(folder)
            try:
                self._socket.bind(str(path))
                break
            except FileNotFoundError:
                if attempt == 2:
                    raise
        self._socket.listen()
        self._socket.setblocking(False)
        for other in folder.iterdir():
            if has_ended(other):
                other.unlink(missing_ok=True)
        return path

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def accept(self) -> bool:
        """Take the questions that have come; returns whether there are any, and the workers should
        be asked. Raises OSError if this process has no descriptor left for them."""
        until = time.monotonic() + ANSWER_S
        with contextlib.suppress(BlockingIOError, ConnectionError):
            for _ in range(MOST):
                connection, _ = self._socket.accept()
                connection.setblocking(False)
                self._asking.append(_Question(connection, until))
        for question in self._asking[:-MOST]:
            self._drop(question)
        self.doing = {}
        return bool(self._asking)

    def answer(self, pids: Mapping[int, int]) -> None:
        """Answer those who ask, once all these ranks have replied or had the time to."""
        for question in list(self._asking):
            late = time.monotonic() - question.until
            if question.answer is None and (late >= 0 or pids.keys() <= self.doing.keys()):
                import json  # most launchers are never asked

                ranks = [
                    [rank, pid, self.doing.get(rank), *self.states.get(rank, ("", None))]
                    for rank, pid in pids.items()
                ]
                question.answer = memoryview(json.dumps({**self._facts, "ranks": ranks}).encode())
            try:
                while question.answer:
                    sent = question.connection.send(question.answer)
                    question.answer = question.answer[sent:]
                gone = question.answer is not None
            except BlockingIOError:
                gone = late >= ANSWER_S
            except OSError:
                gone = True
            if gone:
                self._drop(question)

    def _drop(self, question: _Question) -> None:
        question.connection.close()
        self._asking.remove(question)

    def close(self) -> None:
        """Remove the socket."""
        for question in list(self._asking):
            self._drop(question)
        self._socket.close()
        if self.path is not None:
            remove(self.path)
            self.path = None


def has_ended(path: Path) -> bool:
    """Whether the socket is that of a launcher that was killed, and left it."""
    pid = pid_of(path)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        if pid is not None and path.is_socket():
            probe.setblocking(False)  # of a launcher that is stopped, the queue may be full
            stale = time.time() - path.stat().st_mtime > STALE_S
            # Not yet listening, or in another container, where ids mean other processes?
            unknown = stale or not Path(f"/proc/{pid}").exists()
            return unknown and probe.connect_ex(str(path)) == errno.ECONNREFUSED
    return False


def remove(path: Path) -> None:
    """Remove a launcher's socket, and the folder after the last."""
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()
