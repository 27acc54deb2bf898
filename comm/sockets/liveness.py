"""Who is gone: what connections, goodbyes and the launcher say about the peers."""

import time
from collections.abc import Callable
from typing import Any

import zmq

from ringlet.comm.join.authenticator import read_event

CAUSE_GRACE_S = 0.25
AGENT_GRACE_S = 1.0
"""How long to wait, after a connection closes, for the peer's goodbye or the launcher's account of
how the process ended, before calling the peer lost without a cause."""

DRAIN_S = 1.0
"""A lost peer's last messages are read first: until the inbox is empty, or this long."""


class Liveness:
    """What is known of the peers. `where` names a process; `agent`: a launcher announces deaths."""

    def __init__(self, where: Callable[[int], str]) -> None:
        self.agent = False
        self._where = where
        self._lost: dict[int, tuple[str, float]] = {}
        self._closed: dict[int, float] = {}
        self.departed: set[int] = set()  # ranks that said goodbye
        self._left_behind: dict[int, str] = {}
        self.quiet_at = 0.0  # when the inbox was last empty

    def announce(self, rank: int, cause: str) -> None:
        """Somebody who knows says that the rank is gone. Callable from any thread."""
        self._lost[rank] = (cause, time.monotonic())

    def closed(self, rank: int) -> None:
        """A connection to the rank has closed; why is not known yet."""
        self._closed.setdefault(rank, time.monotonic())

    def hear(self, lost: dict[int, str]) -> None:
        """A peer says which ranks it knows to be lost."""
        for rank, cause in lost.items():
            self._lost.setdefault(rank, (cause, 0.0))

    def gone(self) -> dict[int, str]:
        """The ranks that ended too early, and why."""
        return {rank: cause for rank, (cause, _) in self._lost.items()} | self._left_behind

    def reachable(self, rank: int) -> bool:
        """Whether a message could still arrive there."""
        return not (rank in self.departed or rank in self._closed or rank in self._lost)

    def missing(self, ranks: tuple[int, ...], source: int | None) -> tuple[int, str] | None:
        """One of the ranks that is lost, or `source` if it has shut down, and why; else None."""
        now = time.monotonic()
        # The first to be reported: others may have ended because of it.
        for rank, (cause, since) in list(self._lost.items()):
            if rank in ranks and (self.quiet_at > since or now - since > DRAIN_S):
                return rank, cause
        if source is not None and source in self.departed:
            # Ranks that wait for this one because of it must hear who left first.
            cause = self._left_behind.setdefault(source, f"{self._where(source)} has shut down")
            return source, cause
        return None

    def check(self, monitors: "dict[int, zmq.Socket[Any]]", now: float) -> None:
        """Read the connections' monitors; peers whose connection closed unexplained are lost."""
        for rank, monitor in monitors.items():
            while int(monitor.get(zmq.EVENTS)) & zmq.POLLIN:
                if read_event(monitor)[0] == zmq.EVENT_DISCONNECTED:
                    self.closed(rank)
        grace = AGENT_GRACE_S if self.agent else CAUSE_GRACE_S
        for rank, since in self._closed.items():
            if now - since > grace and rank not in self.departed and rank not in self._lost:
                self._lost[rank] = (f"{self._where(rank)} closed its connection", since)
