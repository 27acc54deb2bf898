"""What was sent and received: bytes, messages and seconds, by operation and by peer."""

import threading
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Traffic:
    """Payload bytes and messages (headers not counted)."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0


@dataclass
class OperationStats(Traffic):
    """All calls of one operation; `seconds` from issue to end, summed over the calls."""

    calls: int = 0
    seconds: float = 0.0


class Stats:
    """The counters of one group on this rank."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operations: dict[str, OperationStats] = {}
        self._peers: dict[int, Traffic] = {}

    def count(self, operation: str, seconds: float, traffic: list[dict[int, Traffic]]) -> None:
        """Add one ended call with its traffic by peer."""
        with self._lock:
            total = self._operations.get(operation)
            if total is None:
                total = self._operations[operation] = OperationStats()
            total.calls += 1
            total.seconds += seconds
            for by_peer in traffic:
                for peer, part in by_peer.items():
                    with_peer = self._peers.get(peer)
                    if with_peer is None:
                        with_peer = self._peers[peer] = Traffic()
                    for counter in (total, with_peer):
                        counter.messages_sent += part.messages_sent
                        counter.bytes_sent += part.bytes_sent
                        counter.messages_received += part.messages_received
                        counter.bytes_received += part.bytes_received

    def snapshot(self) -> dict[str, Any]:
        """{"operations": {name: {calls, seconds, bytes_sent, ...}}, "peers": {rank: {...}}}."""
        with self._lock:
            return {
                "operations": {name: asdict(part) for name, part in self._operations.items()},
                "peers": {rank: asdict(part) for rank, part in self._peers.items()},
            }
