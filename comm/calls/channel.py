"""A group's place in the traffic: its transports, its numbers, and what its calls have done."""

import weakref
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from ringlet.comm.calls.hierarchy import Hierarchy
from ringlet.comm.calls.kinds import Kinds
from ringlet.comm.calls.recorder import Record, Recorder, new_record
from ringlet.comm.errors import CommError
from ringlet.comm.protocols import Transport, Wait
from ringlet.comm.schedules.choice import LIBRARY, SHARED, Choice, Policy, algorithm_named
from ringlet.comm.schedules.links import Links
from ringlet.comm.shared.regions import Regions
from ringlet.comm.shared.transport import SharedMemory
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.endpoint import Endpoint
from ringlet.comm.sockets.transport import Sockets
from ringlet.comm.sockets.wire import COLLECTIVE
from ringlet.comm.stats import Stats


@dataclass
class Context:
    """What the groups of one process have in common."""

    endpoint: Endpoint
    policy: Policy
    timeout: float
    """Of calls that are given none, in seconds."""

    hosts: dict[int, str] = field(default_factory=dict)
    """What tells a rank's host from others; the part before a slash tells machines apart."""

    links: Links = field(default_factory=Links)
    names: dict[str, str] = field(default_factory=dict)
    """The groups' ranks in words, by id."""

    regions: Regions = field(default_factory=Regions)
    failed: bool = False
    """A collective has ended with an error."""

    closed: str = ""
    """Why no call can run any more."""

    channels: "weakref.WeakSet[Channel]" = field(default_factory=weakref.WeakSet)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.endpoint.rank, self.names)

    def close(self, why: str) -> None:
        """Let no call run any more: each raises a CommError that says why."""
        self.closed = why
        for channel in list(self.channels):
            channel.broken = CommError(why)

    def check_open(self) -> None:
        """Raise CommError if no call can run any more."""
        if self.closed:
            raise CommError(self.closed)

    def hosts_of(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """For each rank a number for its host: 0 for that of the first, and so on."""
        numbers: dict[str, int] = {}
        return tuple(numbers.setdefault(self.hosts.get(rank, ""), len(numbers)) for rank in ranks)

    def one_machine(self, ranks: tuple[int, ...]) -> bool:
        """Whether the ranks may share memory: on one host, or in containers on one machine."""
        return len({self.hosts.get(rank, "").partition("/")[0] for rank in ranks}) == 1


class Channel:
    """The collectives and transfers among `ranks` (of the world); `index` is this rank's place."""

    def __init__(self, context: Context, id: str, ranks: tuple[int, ...]) -> None:
        context.check_open()
        self.context, self.endpoint = context, context.endpoint
        self.id, self.ranks, self.index = id, ranks, ranks.index(context.endpoint.rank)
        self.hosts = self.context.hosts_of(ranks)
        choice = Choice(self.hosts, context.policy, context.links)
        self.sockets = Sockets(self.endpoint, id, ranks, choice)
        self.transport: Transport = self.sockets
        self.shared: SharedMemory | None = None  # when all ranks are on one host
        self.hierarchy: Hierarchy | None = None  # when hosts share memory, each for itself
        self.queue: deque[Any] = deque()  # asynchronous collectives that have not ended
        self.busy = False  # a thread is in a collective
        self.kinds = Kinds(len(ranks), self)
        self.stats = Stats()
        self.broken: BaseException | None = None
        self.last_met: Record | None = None  # the last collective that ended well
        # The past collectives are also there for comparing with a rank that is behind.
        self.history = context.recorder.history()
        self._past_transfers = context.recorder.history()
        self._collectives = 0
        self._transfers: dict[tuple[str, int, int], int] = {}
        self.received: dict[tuple[int, int], int] = {}  # (peer, tag) -> arrays taken
        context.names[id] = str(list(ranks))
        context.channels.add(self)

    def use_hierarchy(self, inside: SharedMemory, across: "Channel") -> None:
        """Run on shared memory what is done among the ranks of one host."""
        self.hierarchy = Hierarchy(self.sockets, inside, across.sockets)
        self.transport = self.sockets = self.hierarchy
        self.choose_anew()

    def choose_anew(self) -> None:
        """Forget what was chosen: the hierarchy, or the figures of the links, are new."""
        hierarchy, context = self.hierarchy, self.context
        shares = hierarchy is not None
        self.sockets.choice = Choice(self.hosts, context.policy, context.links, shares)
        if hierarchy is not None:
            hosts = self.context.hosts_of(hierarchy.across.ranks)
            hierarchy.across.choice = Choice(hosts, context.policy, context.links)
        self.kinds.clear()

    def use_memory(self, shared: SharedMemory) -> None:
        """Run on shared memory from now on: all ranks are on one host."""
        self.transport = self.shared = shared
        self.kinds.clear()

    def _algorithm_named(self, operation: str, text: str) -> str:
        """The algorithm of this name; raises ValueError if this group cannot use it."""
        name = algorithm_named(operation, text)
        if name == SHARED and self.shared is None:
            raise ValueError(f"{name}: the ranks {list(self.ranks)} share no memory")
        if name == LIBRARY and self.endpoint.carrier is None:
            raise ValueError(f"{name}: messages do not travel over MPI (RINGLET_TRANSPORT=mpi)")
        if name not in (SHARED, LIBRARY, *self.sockets.choice.candidates(operation)):
            raise ValueError(
                f"{name} needs at least two ranks on each of at least two hosts, equally many on "
                f"each; these are {list(self.ranks)}"
            )
        return name

    def way(self, operation: str, name: str) -> tuple[Transport, str]:
        """What runs an operation, and by which algorithm: see `Chooser`."""
        choice, pins = self.sockets.choice, self.context.policy.pins
        if name:
            name = self._algorithm_named(operation, name)
        elif self.endpoint.carrier is not None and pins.get(operation) == LIBRARY:
            name = LIBRARY
        else:  # what the user has pinned, if this group can run it
            name = choice.pinned(operation)
        if name == LIBRARY:
            return self._library, name
        return self.transport if name in ("", SHARED) else self.sockets, name

    @cached_property
    def _library(self) -> Transport:
        from ringlet.comm.mpi.library import Library

        return Library(self.endpoint.carrier, self.sockets)

    def next_collective(self, signature: Signature) -> Record:
        """Count a collective, and remember it; raises what broke the group, if something did."""
        if self.broken is not None:
            raise self.broken
        record = new_record(self._collectives, signature, COLLECTIVE, -1, self.id)
        self._collectives += 1
        self.history.append(record)
        return record

    def taken(self, operation: str) -> CommError:
        """The error for a collective that begins while another thread is in one."""
        return CommError(
            f"rank {self.endpoint.rank}: {operation} was called while another thread is in a "
            f"collective of group {self.context.names[self.id]}, whose calls need one order on all "
            "ranks: give each thread a group of its own (group.split(range(group.size))), or let "
            "the threads take turns in the same order everywhere"
        )

    def next_transfer(self, signature: Signature, peer: int, tag: int) -> Record:
        """Count a send to, or a receive from, the peer (a world rank) with this tag."""
        self.context.check_open()
        key = (signature.operation, peer, tag)
        sequence = self._transfers.get(key, 0)
        self._transfers[key] = sequence + 1
        record = new_record(sequence, signature, tag, peer, self.id)
        self._past_transfers.append(record)
        return record

    def break_off(self, error: BaseException) -> None:
        """No later collective can run: each raises this error, or one that names it.

        After an error it is open which of the call's messages are still on their way: no later
        call could tell its own from them.
        """
        self.context.failed = True
        if self.broken is None:
            if not isinstance(error, CommError):
                error = CommError(f"a collective of this group ended early: {error!r}")
            self.broken = error


class Counted(Protocol):
    """A call in flight with its number among those of its channel."""

    channel: Channel
    signature: Signature
    stream: int
    sequence: int
    started: float
    timeout: float
    waiting_for: Wait | None

    def text(self) -> str:
        """The call with its size, for errors."""
