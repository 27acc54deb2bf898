"""A wait that lasts: who waits for whom, what was heard last, and what can be done about it.

A rank that waits longer than NOTICE_S tells its group in what, so the others can compare, and can
name the whole chain of ranks that wait for each other.
"""

import time
from typing import Any

from ringlet.comm.calls.channel import Context, Counted
from ringlet.comm.calls.recorder import CALL, ENDED, SHOWN_WITH_ERROR
from ringlet.comm.errors import CommTimeout, PeerLost
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.endpoint import WORLD
from ringlet.comm.sockets.wire import COLLECTIVE

NOTICE_S = 0.2
"""A wait that lasts longer is told to the group."""

NOTICE_EVERY_S = 5.0


class Diagnosis:
    """What is known about one operation's wait."""

    def __init__(self, call: Counted) -> None:
        self._call = call
        self._channel, self._endpoint = call.channel, call.channel.endpoint
        self.notice_at = call.started + NOTICE_S
        self._told = False

    def check(self) -> None:
        """Raise PeerLost or CommTimeout if the wait cannot end well; tell the group if it lasts."""
        call, endpoint, now = self._call, self._endpoint, time.monotonic()
        wait = call.waiting_for
        # Any of the group: the awaited rank may have met the loss before it could send.
        lost = endpoint.liveness.missing(self._channel.ranks, None if wait is None else wait.needed)
        if lost is not None:
            raise self._lost(*lost)
        if now >= call.started + call.timeout:
            raise self.timed_out()
        if endpoint.ask_for_credit():
            self.notice_at = now
        awaited = self._awaited()
        if awaited is not None and endpoint.credits.full:
            self._break_circle(awaited)
        if now >= self.notice_at:
            self.notice_at = now + NOTICE_EVERY_S
            self._tell(now)

    def ended(self) -> None:
        """The call ended well: what was told of its wait would be believed for a while, and circles
        be seen in it."""
        if self._told:
            call = self._call
            self._notify("resumed", (self._channel.id, call.stream, call.sequence))

    def timed_out(self) -> CommTimeout:
        """The error for having waited until now."""
        seconds = time.monotonic() - self._call.started
        head = f"rank {self._endpoint.rank}: {self._call.text()} waited {seconds:.1f} s"
        awaited = self._awaited()
        if awaited is None:
            error = CommTimeout(f"{head} {self._reason()}")
        else:
            chain, culprit = self._chain(awaited)
            error = CommTimeout(f"{head} for {chain}", [culprit])
        error.add_note(self._channel.context.recorder.text(SHOWN_WITH_ERROR))
        return error

    def _reason(self) -> str:
        """Why this call waits, if it waits for no rank."""
        if self._call.waiting_for is not None:
            return self._call.waiting_for.why
        earlier = (record[CALL] for record in self._channel.history)
        first = next((call for call in earlier if call is not None), self._call)
        return f"behind {first.text()}, which has not ended"

    def _awaited(self) -> int | None:
        wait = self._call.waiting_for
        return None if wait is None else wait.awaited

    def _lost(self, rank: int, cause: str) -> PeerLost:
        """The error; the others in the group are told, for they may wait for this rank now."""
        self._notify("lost", {rank: cause})
        text = f"rank {self._endpoint.rank}: {self._call.text()} lost rank {rank}: {cause}"
        return PeerLost(text, rank)

    def _break_circle(self, rank: int) -> None:
        """If the awaited rank waits, perhaps through others, for one that this rank does not let
        send any more, let that one send."""
        endpoint, seen = self._endpoint, {self._endpoint.rank}
        while rank not in seen:
            seen.add(rank)
            if rank in endpoint.credits.full:
                endpoint.welcome(rank)
                return
            waiting = list(endpoint.notices.waiting.items())
            said = [notice for (_, source), notice in waiting if source == rank]
            last = max(said, key=lambda notice: notice.heard, default=None)
            if last is None or time.monotonic() - last.heard > 2 * NOTICE_EVERY_S:
                return
            rank = last.source

    def _chain(self, rank: int) -> tuple[str, int]:
        """What the awaited rank does, and so on along the chain of who waits for whom; and the
        last of them."""
        waiting, context = self._endpoint.notices.waiting, self._channel.context
        now = time.monotonic()
        texts, seen = [f"rank {rank}"], {self._endpoint.rank}
        while rank not in seen:  # they may wait in a circle
            seen.add(rank)
            said = [(n.heard, group) for (group, r), n in waiting.items() if r == rank]
            heard, group = max(said, default=(float("-inf"), ""))
            if now - heard > 2 * NOTICE_EVERY_S:
                texts.append(self._last_seen(rank))
                break
            notice = waiting[group, rank]
            said_call = describe(context, group, notice.stream, notice.sequence, notice.signature)
            texts.append(f"which has waited {notice.seconds + now - heard:.1f} s in {said_call}")
            if notice.source < 0:
                break
            texts[-1] += f" for rank {notice.source}"
            rank = notice.source
        return ", ".join(texts), rank

    def _last_seen(self, rank: int) -> str:
        channel, now = self._channel, time.monotonic()
        header, heard = self._endpoint.last.get(rank, (None, 0.0))
        met = channel.last_met
        if met is not None and met[ENDED] > heard and channel.shared is not None:
            # On shared memory a rank that ended a call has seen all others in it.
            last_call = describe(channel.context, channel.id, COLLECTIVE, met[0], met[1])
            return f"whose last call here, {now - met[ENDED]:.1f} s ago, was {last_call}"
        if header is None:
            return "from which nothing has come yet"
        last_call = describe(
            channel.context, header.group, header.stream, header.sequence, header.signature
        )
        return f"whose last message, {now - heard:.1f} s ago, was of {last_call}"

    def _tell(self, now: float) -> None:
        """Tell the group what this rank waits in."""
        self._told = True
        call, awaited = self._call, self._awaited()
        content = (
            self._channel.id,
            -1 if awaited is None else awaited,
            call.stream,
            call.sequence,
            call.signature,
            now - call.started,
        )
        self._notify("waiting", content)

    def _notify(self, kind: str, content: Any) -> None:
        for rank in self._channel.ranks:
            if rank != self._endpoint.rank:
                self._endpoint.notify(rank, kind, content)


def describe(
    context: Context,
    group: str,
    stream: int,
    sequence: int,
    signature: Signature,
    remarks: str = "",
) -> str:
    """A call in words: all_reduce #42 (gradients 3/7, 4.0 MiB) in group [0, 2]."""
    tag = f"tag {stream}" if stream > 0 else ""
    inside = ", ".join(text for text in (tag, remarks) if text)
    where = "" if group == WORLD else f" in group {context.names.get(group, group)}"
    return f"{signature.operation} #{sequence}{f' ({inside})' if inside else ''}{where}"
