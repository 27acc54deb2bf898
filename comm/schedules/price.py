"""Price a schedule: how long it takes on a network that is described by a few numbers.

Hockney's model ("The communication challenge for MPP", 1994) with LogGP's ports (Alexandrov et
al., "LogGP", 1995): a message of s bytes keeps the sender's port busy for overhead + s /
bandwidth, and arrives `latency` later; a rank sends one message and receives one at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ringlet.comm.schedules.clocks import Clocks
from ringlet.comm.schedules.kernel import execute
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Schedule, Send, cut


@dataclass(frozen=True)
class LinkCost:
    """What a message between two ranks costs."""

    latency: float
    """Seconds until the first byte arrives; messages under way do not slow each other down."""

    bandwidth: float
    """Bytes per second."""

    overhead: float = 0.0
    """Seconds for which each message keeps the ports busy, however short it is."""

    duplex: bool = True
    """Whether a rank sends, receives and computes at once. Where processors copy the messages, as
    between processes of one host, it does one after the other."""


@dataclass(frozen=True)
class Network:
    """The links, and what a rank can do at once."""

    link: Callable[[int, int], LinkCost]
    """(sender, receiver) -> the link between them."""

    reduction: float = 0.0
    """Seconds to combine two bytes."""

    ports: int = 1
    """Messages that each rank can send at once at full bandwidth, and as many receive."""

    host: Callable[[int], int] | None = None
    """rank -> its host, if the ranks of a host share one network card: the collective takes at
    least as long as the card needs for all that they send to other hosts."""

    @classmethod
    def uniform(cls, link: LinkCost, reduction: float = 0.0, ports: int = 1) -> "Network":
        """The same link between all ranks."""
        return cls(lambda sender, receiver: link, reduction, ports)

    @classmethod
    def of_hosts(
        cls, per_host: int, inside: LinkCost, between: LinkCost, ports: int = 1
    ) -> "Network":
        """One link inside a host and one between hosts; host h has the ranks from h * per_host."""

        def link(sender: int, receiver: int) -> LinkCost:
            return inside if sender // per_host == receiver // per_host else between

        return cls(link, ports=ports)


@dataclass(frozen=True)
class Price:
    """How long a schedule takes, and who waits for whom."""

    seconds: float
    """Until the last rank has finished."""

    finished: tuple[float, ...]
    """When each rank has finished."""

    waits: dict[tuple[int, int], float]
    """(rank, peer) -> seconds in which the rank had nothing to do but wait for the peer."""

    nbytes: tuple[float, ...]
    """Bytes that each rank has sent."""


def price(schedule: Schedule, network: Network, nbytes: float, segments: int = 1) -> Price:
    """Execute the schedule on the network, every slot cut into `segments`.

    `nbytes` is the whole array: in all_gather and gather what is gathered, in scatter what the
    root has, in all_to_all what one rank sends to all. Raises ScheduleError as `prove` does.
    """
    schedule = cut(schedule, segments)
    pricer = _Pricer(schedule.size, network, nbytes / schedule.array_slots)
    execute(schedule, schedule.steps, pricer)
    finished = tuple(map(max, pricer.clocks.now, pricer.sent_at))
    return Price(
        seconds=max(*finished, *pricer.carried.values(), 0.0),
        finished=finished,
        waits=pricer.waits,
        nbytes=tuple(count * pricer.slot_bytes for count in pricer.sent),
    )


_Transit: TypeAlias = tuple[float, float, bool]
"""A message on its way: its arrival, for how long it keeps a port busy, whether it is duplex."""


class _Pricer:
    """The reader of a price: nothing but clocks."""

    def __init__(self, size: int, network: Network, slot_bytes: float) -> None:
        self.network, self.slot_bytes = network, slot_bytes
        self.clocks = Clocks(size, network.ports)
        self.sent = [0] * size
        self.sent_at = [0.0] * size
        self.waits: dict[tuple[int, int], float] = {}
        self.carried: dict[int, float] = {}  # host -> seconds for which its card is busy
        self._combine = network.reduction * slot_bytes

    def compute(self, rank: int, step: Copy) -> None:
        pass  # copying within a rank's memory is free

    def send(self, rank: int, step: Send) -> _Transit:
        link = self.network.link(rank, step.peer)
        busy = link.overhead + self.slot_bytes / link.bandwidth
        left = self.clocks.send(rank, busy, link.duplex)
        self.sent[rank] += 1
        self.sent_at[rank] = max(self.sent_at[rank], left)
        host_of = self.network.host
        if host_of is not None and host_of(rank) != host_of(step.peer):
            seconds = self.carried.get(host_of(rank), 0.0) + self.slot_bytes / link.bandwidth
            self.carried[host_of(rank)] = seconds
        return left + link.latency, busy, link.duplex

    def receive(self, rank: int, step: Receive | Reduce, payload: _Transit) -> None:
        clocks = self.clocks
        wait = -clocks.now[rank]
        clocks.receive(rank, *payload)
        wait += clocks.now[rank]
        if wait > 0:
            pair = (rank, step.peer)
            self.waits[pair] = self.waits.get(pair, 0.0) + wait
        if isinstance(step, Reduce):
            clocks.compute(rank, self._combine, duplex=payload[2])
