"""Calls and messages that leave entries in a timeline; they take the others' place if there is one.

Nothing of this is in the way of calls that are not recorded.
"""

import time
from typing import Any

import zmq

from ringlet.comm import timeline
from ringlet.comm.arrays import Array
from ringlet.comm.calls.active_call import READY, ActiveCall
from ringlet.comm.calls.recorder import ENDED, ERROR, PEER
from ringlet.comm.join.environment import Environment
from ringlet.comm.protocols import Program
from ringlet.comm.sockets.arriving import Message
from ringlet.comm.sockets.credits import Parked
from ringlet.comm.sockets.endpoint import Endpoint
from ringlet.comm.sockets.wire import COLLECTIVE, Header
from ringlet.comm.timeline import ARRIVED, CALL, IN_BACKGROUND, SENT, TRANSFER, WAIT, Timeline


class RecordedCall(ActiveCall):
    """A call that leaves an entry when it ends, and one for each time a thread waits for it."""

    _begun = 0.0
    _in_caller = False

    def drive(self, program: Program) -> Any:
        self._in_caller = True
        return super().drive(program)

    def advance(self, look: int = READY) -> bool:
        self._begun = self._begun or (self.started if self._in_caller else time.monotonic())
        return super().advance(look)

    def wait_for_end(self, timeout: float | None) -> bool:
        since = time.monotonic()
        try:
            return super().wait_for_end(timeout)
        finally:
            self._add_wait(since)

    def complete(self, until: float) -> bool:
        if self._in_caller:
            return super().complete(until)
        since = time.monotonic()
        try:
            return super().complete(until)
        finally:
            self._add_wait(since)

    def _end(self, error: BaseException | None) -> None:
        super()._end(error)
        self._add()

    def _add(self) -> None:
        found, record = timeline.current, self._record
        if found is None:
            return
        end, name = record[ENDED] or time.monotonic(), self._name(found)
        if self.stream == COLLECTIVE:
            thread = found.thread() if self._in_caller else IN_BACKGROUND
            issued = int(self.started * 1e9)
            begun = self._begun or end  # it may have failed in the queue
            found.add(begun, end, CALL, thread, name, -1, self.sequence, issued, self.nbytes)
        else:
            peer, tag = record[PEER], self.stream
            numbers = self.sequence, tag, self.nbytes
            found.add(self.started, end, TRANSFER, IN_BACKGROUND, name, peer, *numbers)

    def _add_wait(self, since: float) -> None:
        if (found := timeline.current) is not None:
            now, peer = time.monotonic(), self._record[PEER]
            thread, name = found.thread(), self._name(found)
            found.add(since, now, WAIT, thread, name, peer, self.sequence, self.stream)

    def _name(self, found: Timeline) -> int:
        """What calls of this kind have in common; what they send is known when they end."""
        record = self._record
        ended, error = record[ENDED] is not None, record[ERROR]
        key = (self.signature, self.label, self.channel.id, ended, error)
        return found.name(key, self._description)

    def _description(self) -> dict[str, Any]:
        signature, channel = self.signature, self.channel
        sent: dict[int, int] = {}
        for by_peer in self.traffic:
            for peer, traffic in by_peer.items():
                sent[peer] = sent.get(peer, 0) + traffic.bytes_sent
        return {
            "call": signature.operation,
            "text": str(signature._replace(detail="")),
            "detail": signature.detail,
            "label": self.label,
            "group": channel.id,
            "ranks": channel.ranks,
            "sent": sent,
            "error": self._record[ERROR],
        }


def call_class() -> type[ActiveCall]:
    """What the calls of a new group are."""
    return ActiveCall if timeline.current is None else RecordedCall


class RecordedEndpoint(Endpoint):
    """An endpoint whose messages leave entries."""

    def post(
        self, peer: int, header: Header, payload: Array, frame: "zmq.Frame | None" = None
    ) -> "zmq.MessageTracker | Parked | None":
        since = time.monotonic()
        tracker = super().post(peer, header, payload, frame)
        _add_message(SENT, since, peer, header, payload.nbytes)
        return tracker

    def _deliver(self, message: Message) -> None:
        since, header = time.monotonic(), message.header
        super()._deliver(message)
        _add_message(ARRIVED, since, header.source, header, message.nbytes)


def _add_message(kind: int, since: float, peer: int, header: Header, nbytes: int) -> None:
    if (found := timeline.current) is not None:
        now, group = time.monotonic(), header.group
        name = found.name(("group", group), lambda: {"messages": group})
        place = timeline.message_place(header.stream, header.number)
        found.add(since, now, kind, IN_BACKGROUND, name, peer, header.sequence, place, nbytes)


def open_endpoint(environment: Environment) -> Endpoint:
    """This process's endpoint; with RINGLET_TRACE, its timeline begins."""
    rank, size, generation = environment.rank, environment.size, environment.generation
    found = timeline.start(rank, size, generation, environment.host)
    make = Endpoint if found is None else RecordedEndpoint
    return make(rank, size, environment.job, generation, environment.data_key, environment.seals)
