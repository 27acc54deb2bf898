"""Warm ranks that are forks of one process: they start in a tenth of the time of programs.

The process is itself a fork of pytest's, made when the first ranks are asked for. So it has
imported what the tests import, and nothing of the test that asks later is in it.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from ringlet.comm import world as comm  # noqa: F401 - now, and not on each rank
from ringlet.launcher.supervisor.control import Control
from ringlet.launcher.testing.forks import Fork, limit_blas
from ringlet.launcher.testing.pool import WorkerPool
from ringlet.launcher.workers.warm import serve
from ringlet.launcher.workers.worker import Guard

MAX_BYTES = 1 << 20


class Template:
    """The process that ranks are forked from."""

    def __init__(self) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._end.close()
                os.setsid()
                _answer(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def ask(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """The pid of a new rank, or the exit code of one that has ended."""
        socket.send_fds(self._end, [json.dumps(request).encode()], descriptors)
        answer: int = json.loads(self._end.recv(MAX_BYTES))
        return answer

    def close(self) -> None:
        """The process ends."""
        self._end.close()
        os.waitpid(self._pid, 0)


def _answer(end: socket.socket) -> None:
    while True:
        data, descriptors, _, _ = socket.recv_fds(end, MAX_BYTES, 2)
        if not data:
            return
        request = json.loads(data)
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                end.close()
                _become_a_rank(request, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        end.send(json.dumps(answer).encode())


def _become_a_rank(request: dict[str, Any], control: int, output: int) -> None:
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    limit_blas(os.environ["OPENBLAS_NUM_THREADS"])
    for number in (1, 2):
        os.dup2(output, number)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    serve(Guard(Control(socket.socket(fileno=control))))


class ForkedRank(Fork):
    """A rank that the template has forked."""

    def __init__(self, template: Template, rank: int, environment: dict[str, str], output: int):
        self.rank, self._template = rank, template
        ours, theirs = socket.socketpair()
        request = {"environment": environment, "folder": str(Path.cwd())}
        self._pid = template.ask(request, [theirs.fileno(), output])
        theirs.close()
        self.control = Control(ours)
        self._code = None

    def _reap(self) -> int:
        return self._template.ask({"ended": self._pid}, [])


class ForkedPool(WorkerPool):
    """A WorkerPool whose ranks are forks of the template."""

    def __init__(self, template: Template, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._template = template

    def _start_rank(self, job, rank, output):
        return ForkedRank(self._template, rank, job.environment(rank), output.fileno())
