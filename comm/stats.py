"""What was sent and received: bytes, messages and seconds, by operation and by peer."""

import threading
from collections import defaultdict
from dataclasses import asdict, astuple, dataclass
from typing import Any


@dataclass
class Traffic:
    """Payload bytes and messages (headers not counted)."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0


class Stats:
    """The counters of one group on this rank."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, list[float]] = {}  # how many calls, and their seconds
        self._traffic: defaultdict[tuple[str, int], Traffic] = defaultdict(Traffic)
        """By operation and peer."""

    def count(self, operation: str, seconds: float, traffic: list[dict[int, Traffic]]) -> None:
        """Add one ended call with its traffic by peer."""
        with self._lock:
            calls = self._calls.setdefault(operation, [0, 0.0])
            calls[0] += 1
            calls[1] += seconds
            for by_peer in traffic:
                for peer, part in by_peer.items():
                    total = self._traffic[operation, peer]
                    total.messages_sent += part.messages_sent
                    total.bytes_sent += part.bytes_sent
                    total.messages_received += part.messages_received
                    total.bytes_received += part.bytes_received

    def snapshot(self) -> dict[str, Any]:
        """{"operations": {name: {calls, seconds, bytes_sent, ...}}, "peers": {rank: {...}}}."""
        with self._lock:
            operations = {
                name: {**asdict(self._sum(operation=name)), "calls": int(calls), "seconds": seconds}
                for name, (calls, seconds) in self._calls.items()
            }
            peers = sorted({peer for _, peer in self._traffic})
            return {
                "operations": operations,
                "peers": {peer: asdict(self._sum(peer=peer)) for peer in peers},
            }

    def _sum(self, operation: str | None = None, peer: int | None = None) -> Traffic:
        parts = [
            part
            for (name, rank), part in self._traffic.items()
            if operation in (None, name) and peer in (None, rank)
        ]
        return Traffic(*(sum(numbers) for numbers in zip(*map(astuple, parts), strict=True)))
