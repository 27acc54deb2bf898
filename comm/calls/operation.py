"""One call in flight: a generator that yields what it waits for, and the errors a wait can meet.

A collective or a transfer is written once, as a generator. A blocking call drives it in the
caller's thread; the progress thread drives the asynchronous ones.
"""

import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import zmq

from ringlet.comm.calls.recorder import SHOWN_WITH_ERROR, Record
from ringlet.comm.errors import CommError, CommTimeout, PeerLost
from ringlet.comm.shared.control_block import Board
from ringlet.comm.sockets.credits import Parked
from ringlet.comm.sockets.endpoint import WORLD, Endpoint, Key, Message
from ringlet.comm.sockets.wire import COLLECTIVE, Signature, size_text
from ringlet.comm.stats import Traffic

if TYPE_CHECKING:
    from ringlet.comm.calls.channel import Channel

NOTICE_S = 0.2
"""A wait that lasts longer tells the others what it waits in, so that they can compare."""

NOTICE_EVERY_S = 5.0

LOOK_S = 0.02
"""Who waits on shared memory reads its messages this often."""


class Arrival(NamedTuple):
    """Wait for a message; the generator is sent the message (`keep` leaves it in the mailbox)."""

    key: Key
    keep: bool = False


class Departure(NamedTuple):
    """Wait until ZeroMQ has let go of a payload for the peer (a world rank), or the peer's credit
    lets it leave first."""

    tracker: "zmq.MessageTracker | Parked"
    peer: int


class Meeting(NamedTuple):
    """Wait until every rank of the board has reached the phase."""

    board: Board
    phase: int


class Never(NamedTuple):
    """Wait for an error that has to come."""


Awaiting: TypeAlias = Arrival | Departure | Meeting | Never
Program: TypeAlias = Generator[Awaiting, Any, Any]


class _PatienceOver(Exception):
    """The caller's wait is over, the operation is not."""


class Operation:
    """A call in flight on a channel. `result` or `error` is set once `finished` is."""

    def __init__(
        self,
        channel: "Channel",
        signature: Signature,
        *,
        stream: int,
        sequence: int,
        timeout: float,
        label: str = "",
        record: Record | None = None,
    ) -> None:
        self.channel, self.signature, self.label = channel, signature, label
        self.record = record
        self.stream, self.sequence = stream, sequence
        self.started = time.monotonic()
        self.timeout, self.deadline = timeout, self.started + timeout
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self.counted = True
        self._end_seen: threading.Event | None = None  # made for those that other threads await
        self.traffic: dict[int, Traffic] = {}
        self._program: Program | None = None
        self._awaiting: Awaiting | None = None
        self._next_notice = self.started + NOTICE_S
        self._told = False
        self.nbytes = 0

    def start(self, program: Program, nbytes: int) -> None:
        """Run the program up to its first wait."""
        self._program, self.nbytes = program, nbytes
        if self.record is not None:
            self.channel.endpoint.recorder.flying[id(self.record)] = self
        self._advance(None)

    # -- driving ------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether `step` would get further."""
        awaiting = self._awaiting
        if isinstance(awaiting, Arrival):
            return self.channel.endpoint.peek(awaiting.key) is not None
        if isinstance(awaiting, Meeting):
            return awaiting.board.complete(awaiting.phase)
        return awaiting is None or (isinstance(awaiting, Departure) and awaiting.tracker.done)

    def share(self) -> None:
        """Prepare for `wait_for_end`: another thread will drive this."""
        self._end_seen = threading.Event()

    def wait_for_end(self, timeout: float | None) -> bool:
        """Sleep until another thread has driven it to its end; False after `timeout` seconds."""
        assert self._end_seen is not None
        return self._end_seen.wait(timeout)

    def step(self) -> bool:
        """Advance as far as possible without waiting; returns whether it has finished."""
        while not self.finished and self.ready():
            self._advance(self._obtain())
        return self.finished

    def drive(self, patience: float | None = None) -> Any:
        """Advance to the end, waiting as needed; returns the result or raises the error.

        After `patience` seconds CommTimeout is raised, and the operation stays in flight.
        """
        self.complete(patience)
        return self.outcome()

    def complete(self, patience: float | None = None) -> None:
        """As `drive`, but leaves the operation's own result or error with it."""
        until = None if patience is None else time.monotonic() + patience
        while not self.step():
            self._wait(until)

    def outcome(self) -> Any:
        """The result of a finished operation, or its error."""
        if self.error is not None:
            raise self.error
        return self.result

    def fail(self, error: BaseException) -> None:
        """End with an error; a collective's error breaks its channel for all later calls."""
        if self._program is not None:
            self._program.close()
        self._end(error)

    @property
    def in_departure(self) -> bool:
        """Whether it waits for ZeroMQ and not for a peer's message."""
        return isinstance(self._awaiting, Departure)

    @property
    def meeting(self) -> Meeting | None:
        """What it waits for on shared memory, if it does."""
        return self._awaiting if isinstance(self._awaiting, Meeting) else None

    def _awaited(self) -> int | None:
        """The world rank that it waits for."""
        if isinstance(self._awaiting, Arrival):
            return self._awaiting.key[1]
        if isinstance(self._awaiting, Meeting):
            board = self._awaiting.board
            behind = board.behind(self._awaiting.phase)
            return board.ranks[behind[0]] if behind else None
        return self._awaiting.peer if isinstance(self._awaiting, Departure) else None

    def _needed(self) -> int | None:
        """The awaited rank, if it has to be there still: a message that has left may arrive at one
        that has shut down."""
        left = isinstance(self._awaiting, Departure) and (
            not isinstance(self._awaiting.tracker, Parked) or self._awaiting.tracker.left
        )
        return None if left else self._awaited()

    def _wait(self, until: float | None) -> None:
        def tick() -> None:
            self.check()
            if until is not None and time.monotonic() >= until:
                raise _PatienceOver

        try:
            if isinstance(self._awaiting, Departure):
                self._wait_for_departure(self._awaiting.tracker, tick)
            elif isinstance(self._awaiting, Meeting):
                self._wait_for_meeting(*self._awaiting, tick)
            else:
                self.channel.endpoint.wait(self.ready, tick)
        except _PatienceOver:
            raise self.timed_out() from None
        except BaseException as error:
            self.fail(error)

    def _wait_for_departure(
        self, tracker: "zmq.MessageTracker | Parked", tick: Callable[[], None]
    ) -> None:
        """Keep reading meanwhile: the peer may have to get rid of its messages first."""
        while not tracker.done:
            self.channel.endpoint.poll()
            try:
                tracker.wait(0.002)
            except zmq.NotDone:
                tick()

    def _wait_for_meeting(self, board: Board, phase: int, tick: Callable[[], None]) -> None:
        """Look for a very short time, then sleep; read messages now and then: they tell of ends."""
        if board.watch(phase):
            return
        look_at = time.monotonic() + LOOK_S
        while not board.complete(phase):
            board.sleep(phase, LOOK_S)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_S
                self.channel.endpoint.poll()
                tick()

    def _obtain(self) -> Message | None:
        awaiting = self._awaiting
        if not isinstance(awaiting, Arrival):
            return None
        get = self.channel.endpoint.peek if awaiting.keep else self.channel.endpoint.take
        return get(awaiting.key)

    def _advance(self, value: Message | None) -> None:
        assert self._program is not None
        try:
            self._awaiting = self._program.send(value)
        except StopIteration as stop:
            self.result = stop.value
            self._end(None)
        except BaseException as error:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self.error, self._program, self._awaiting = error, None, None
        if self._told and error is None:
            # What was said would be taken for true for a while, and circles be seen in it.
            self._notify("resumed", (self.channel.id, self.stream, self.sequence))
        self.channel.endpoint.recorder.flying.pop(id(self.record), None)
        self.channel.ended(self, time.monotonic() - self.started)
        if isinstance(error, CommError):
            self._add_last_operations(error)
        self.finished = True
        if self._end_seen is not None:
            self._end_seen.set()

    def remarks(self) -> str:
        """For the flight recorder: the label, and whom it waits for."""
        source = self._awaited()
        waits = "" if source is None else f"waits for rank {source}"
        return ", ".join(filter(None, (self.label, waits)))

    def _add_last_operations(self, error: CommError) -> None:
        """Tracebacks show notes below the message, which stays as short as it is."""
        if not getattr(error, "__notes__", None):
            error.add_note(self.channel.endpoint.recorder.text(SHOWN_WITH_ERROR))

    # -- what a wait can meet -----------------------------------------------------------------

    def check(self) -> None:
        """Raise if this wait cannot end well; tell the others of it if it lasts."""
        now = time.monotonic()
        source = self._awaited()
        self.channel.check_agreement(self)
        # Any of the group: the awaited rank may have met the loss before it could send.
        lost = self.channel.endpoint.liveness.missing(self.channel.ranks, self._needed())
        if lost is not None:
            raise self._lost(*lost)
        if now >= self.deadline:
            raise self.timed_out()
        if self.channel.endpoint.ask_for_credit():
            self._next_notice = now
        if source is not None and self.channel.endpoint.credits.full:
            self._break_circle(source)
        if now >= self._next_notice:
            self._next_notice = now + NOTICE_EVERY_S
            self._tell(now)

    def _break_circle(self, rank: int) -> None:
        """If the awaited rank waits, perhaps through others, for one that this rank does not let
        send any more, let that one send."""
        endpoint, seen = self.channel.endpoint, {self.channel.endpoint.rank}
        while rank not in seen:
            seen.add(rank)
            if rank in endpoint.credits.full:
                endpoint.welcome(rank)
                return
            words = [word for (_, r), word in list(endpoint.waiting.items()) if r == rank]
            last = max(words, key=lambda word: word.heard, default=None)
            if last is None or time.monotonic() - last.heard > 2 * NOTICE_EVERY_S:
                return
            rank = last.source

    def _lost(self, rank: int, cause: str) -> PeerLost:
        """The error; the others in the group are told, for they may wait for this rank now."""
        self._notify("lost", {rank: cause})
        here = self.channel.endpoint.rank
        return PeerLost(f"rank {here}: {self.text()} lost rank {rank}: {cause}", rank)

    def tell(self) -> None:
        """Tell the group at once what this waits in."""
        self._next_notice = time.monotonic()

    def text(self) -> str:
        """The operation with its size, for errors: all_reduce #42 (gradients 3/7, 4.0 MiB)."""
        size = size_text(self.nbytes) if self.nbytes else ""
        remarks = ", ".join(text for text in (self.label, size) if text)
        return describe(
            self.channel.endpoint,
            self.channel.id,
            self.stream,
            self.sequence,
            self.signature,
            remarks,
        )

    def timed_out(self) -> CommTimeout:
        """The error for having waited until now, with what is known of the awaited rank."""
        seconds = time.monotonic() - self.started
        head = f"rank {self.channel.endpoint.rank}: {self.text()} waited {seconds:.1f} s"
        source = self._awaited()
        if source is None:
            error = CommTimeout(f"{head} for its turn")
        else:
            words, culprit = self._follow(source)
            error = CommTimeout(f"{head} for {words}", [culprit])
        self._add_last_operations(error)
        return error

    def _follow(self, rank: int) -> tuple[str, int]:
        """What the awaited rank does, and so on along the chain of who waits for whom."""
        endpoint, now = self.channel.endpoint, time.monotonic()
        texts, seen = [f"rank {rank}"], {endpoint.rank}
        while rank not in seen:  # they may wait in a circle
            seen.add(rank)
            said = [(w.heard, group) for (group, r), w in endpoint.waiting.items() if r == rank]
            heard, group = max(said, default=(float("-inf"), ""))
            if now - heard > 2 * NOTICE_EVERY_S:
                texts.append(self._last_seen(rank))
                break
            word = endpoint.waiting[group, rank]
            call = describe(endpoint, group, word.stream, word.sequence, word.signature)
            texts.append(f"which has waited {word.seconds + now - heard:.1f} s in {call}")
            if word.source < 0:
                break
            texts[-1] += f" for rank {word.source}"
            rank = word.source
        return ", ".join(texts), rank

    def _last_seen(self, rank: int) -> str:
        endpoint, now = self.channel.endpoint, time.monotonic()
        header, heard = endpoint.last.get(rank, (None, 0.0))
        met = self.channel.last_met
        if met is not None and met[2] > heard and self.channel.board is not None:
            # On shared memory a rank that ended a call has seen all others in it.
            call = describe(endpoint, self.channel.id, COLLECTIVE, met[0], met[1])
            return f"whose last call here, {now - met[2]:.1f} s ago, was {call}"
        if header is None:
            return "from which nothing has come yet"
        call = describe(endpoint, header.group, header.stream, header.sequence, header.signature)
        return f"whose last message, {now - heard:.1f} s ago, was of {call}"

    def _tell(self, now: float) -> None:
        """Tell the group what this waits in."""
        self._told = True
        source = self._awaited()
        content = (
            self.channel.id,
            -1 if source is None else source,
            self.stream,
            self.sequence,
            self.signature,
            now - self.started,
        )
        self._notify("waiting", content)

    def _notify(self, word: str, content: Any) -> None:
        for rank in self.channel.ranks:
            if rank != self.channel.endpoint.rank:
                self.channel.endpoint.notify(rank, word, content)


def describe(
    endpoint: Endpoint,
    group: str,
    stream: int,
    sequence: int,
    signature: Signature,
    remarks: str = "",
) -> str:
    """A call in words: all_reduce #42 (gradients 3/7, 4.0 MiB) in group [0, 2]."""
    tag = f"tag {stream}" if stream > 0 else ""
    inside = ", ".join(text for text in (tag, remarks) if text)
    where = "" if group == WORLD else f" in group {endpoint.groups.get(group, group)}"
    return f"{signature.operation} #{sequence}{f' ({inside})' if inside else ''}{where}"
