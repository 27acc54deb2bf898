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


class Exchange(defaultdict[int, Traffic]):
    """What calls that are alike send and receive, by peer; and how many have not been added up."""

    def __init__(self) -> None:
        super().__init__(Traffic)
        self.calls = 0


MOST_EXCHANGES = 256


class Stats:
    """The counters of one group on this rank."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, list[float]] = {}  # how many calls, and their seconds
        self._exchanges: list[tuple[str, Exchange]] = []  # with calls that are not in `_traffic`
        self._traffic: defaultdict[tuple[str, int], Traffic] = defaultdict(Traffic)
        """By operation and peer."""

    def count(self, operation: str, seconds: float, traffic: list[Exchange]) -> None:
        """Add one ended call with its traffic.

        Without a lock, which takes as long as all of this: the interpreter changes threads at calls
        and at the end of a loop, not within a += or between it and what follows.
        """
        calls = self._calls.get(operation) or self._calls.setdefault(operation, [0, 0.0])
        calls[0] += 1
        calls[1] += seconds
        for exchange in traffic:
            exchange.calls += 1
            if exchange.calls == 1:
                self._remember(operation, exchange)

    def _remember(self, operation: str, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.append((operation, exchange))
            if len(self._exchanges) > MOST_EXCHANGES:
                self._add_up()

    def _add_up(self) -> None:
        known, self._exchanges = self._exchanges, []
        for operation, exchange in known:
            calls, exchange.calls = exchange.calls, 0
            for peer, part in exchange.items():
                total = self._traffic[operation, peer]
                total.messages_sent += calls * part.messages_sent
                total.bytes_sent += calls * part.bytes_sent
                total.messages_received += calls * part.messages_received
                total.bytes_received += calls * part.bytes_received

    def snapshot(self) -> dict[str, Any]:
        """{"operations": {name: {calls, seconds, bytes_sent, ...}}, "peers": {rank: {...}}}."""
        with self._lock:
            self._add_up()
            operations = {
                name: {**asdict(self._sum(operation=name)), "calls": int(calls), "seconds": seconds}
                for name, (calls, seconds) in list(self._calls.items())
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
