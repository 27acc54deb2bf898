"""Who is gone: what connections, goodbyes and the launcher say about the peers."""

import time
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from ringlet.comm.errors import PeerLost

CAUSE_GRACE_S = 0.25
AGENT_GRACE_S = 1.0
"""After a connection closes, wait so long for the peer's goodbye, or for the launcher's account
of how the process ended, before calling the peer lost without a cause."""

DRAIN_S = 1.0
"""A lost peer's last messages are read first: until the inbox was seen empty, or so long."""


class Liveness:
    """The peers' states as this process knows them.

    `where` says in words which process a rank is; `agent` is whether a launcher announces deaths.
    """

    def __init__(self, where: Callable[[int], str]) -> None:
        self.agent = False
        self._where = where
        self._lost: dict[int, tuple[str, float]] = {}
        self._closed: dict[int, float] = {}
        self._departed: set[int] = set()
        self._left_behind: dict[int, str] = {}
        self._quiet = 0.0

    def announce(self, rank: int, cause: str) -> None:
        """Take another's word that the rank is gone. Callable from any thread."""
        self._lost[rank] = (cause, time.monotonic())

    def closed(self, rank: int) -> None:
        """A connection to the rank is closed; why is not known yet."""
        self._closed.setdefault(rank, time.monotonic())

    def departed(self, rank: int, lost: dict[int, str]) -> None:
        """The rank said goodbye, and which ranks it knew to be lost."""
        for other, cause in lost.items():
            self._lost.setdefault(other, (cause, 0.0))
        self._departed.add(rank)

    def quiet(self, now: float) -> None:
        """The inbox was seen empty."""
        self._quiet = now

    def gone(self) -> dict[int, str]:
        """The ranks that ended too early, with the causes."""
        return {rank: cause for rank, (cause, _) in self._lost.items()} | self._left_behind

    def error(self, ranks: tuple[int, ...], source: int | None) -> PeerLost | None:
        """The error if one of the ranks is lost, or `source` has shut down; else None."""
        now = time.monotonic()
        for rank in ranks:
            if rank in self._lost:
                cause, since = self._lost[rank]
                if self._quiet > since or now - since > DRAIN_S:
                    return PeerLost(f"lost rank {rank}: {cause}", rank)
        if source is not None and source in self._departed:
            # Others that wait for this rank because of it shall hear who left first.
            cause = self._left_behind.setdefault(source, f"{self._where(source)} has shut down")
            return PeerLost(f"lost rank {source}: {cause}", source)
        return None

    def look(self, monitors: "dict[int, zmq.Socket[Any]]", now: float) -> None:
        """Read the connections' monitors; call those lost that closed and stay unexplained."""
        for rank, monitor in monitors.items():
            while int(monitor.get(zmq.EVENTS)) & zmq.POLLIN:
                if recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED:
                    self.closed(rank)
        grace = AGENT_GRACE_S if self.agent else CAUSE_GRACE_S
        for rank, since in self._closed.items():
            if now - since > grace and rank not in self._departed and rank not in self._lost:
                self._lost[rank] = (f"{self._where(rank)} closed its connection", since)
