"""What belongs together in the ranks' records: a call on all its ranks, a send and its receive."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from ringlet.comm.timeline import ARRIVED, CALL, SENT, TRANSFER
from ringlet.runtime.tracing.records import Entry, Record

Message: TypeAlias = tuple[str, int, int, int, int]
"""(group, from, to, number, tag or place): of a transfer, or of a message."""


class Met(NamedTuple):
    """When a call could go on, on one rank: `late` came last, at `ready`; and from `moving` on all
    ranks were at work on it. In ns."""

    ready: int
    late: int
    moving: int


class Matches:
    """All records, searched once."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._calls: defaultdict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)
        self._sends: dict[Message, int] = {}
        self._arrivals: dict[Message, int] = {}
        for record in records:
            for entry in record.entries:
                self._take(record, entry)

    def _take(self, record: Record, entry: Entry) -> None:
        named, rank = record.named(entry), record.rank
        if entry.kind == CALL and named:
            self._calls[named["group"], entry.a].append((entry.b, rank, entry.start))
        elif entry.kind == TRANSFER and named.get("call") == "send":
            self._sends[named["group"], rank, entry.peer, entry.b, entry.a] = entry.start
        elif entry.kind == ARRIVED and named:
            stream = (entry.b >> 24) - 1
            key = (named["messages"], entry.peer, rank, stream, entry.a)
            self._arrivals[key] = max(entry.end, self._arrivals.get(key, 0))

    def met(self, record: Record, entry: Entry) -> Met | None:
        """When the call of an entry (CALL, TRANSFER or WAIT) could go on; None if it never had to
        wait for another rank, or that is not known.

        A call that has failed waited to its end for the ranks that did not come.
        """
        named = record.named(entry)
        if not named:
            return None
        if named["call"] in ("send", "recv"):
            if named["call"] == "send":
                return None
            key = (named["group"], entry.peer, record.rank, entry.b, entry.a)
            sent = self._sends.get(key)
            if sent is None:
                return Met(entry.end, entry.peer, entry.end) if named["error"] else None
            return Met(sent, entry.peer, sent)
        came = self._calls[named["group"], entry.a]
        if missing := set(named["ranks"]) - {rank for _, rank, _ in came}:
            if not named["error"]:
                return None
            return Met(entry.end, min(missing), entry.end)
        ready, late, _ = max(came)
        return Met(ready, late, max(begun for *_, begun in came))

    def arrived(self, record: Record, entry: Entry) -> int | None:
        """When the last message of a receive had come."""
        key = (record.named(entry)["group"], entry.peer, record.rank, entry.b, entry.a)
        return self._arrivals.get(key)

    def message(self, record: Record, entry: Entry) -> Message | None:
        """What a SENT and its ARRIVED have in common, and no other; None if its name is lost."""
        named = record.named(entry)
        if not named:
            return None
        ends = (record.rank, entry.peer) if entry.kind == SENT else (entry.peer, record.rank)
        return named["messages"], *ends, entry.a, entry.b
