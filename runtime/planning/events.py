"""Discrete events: collectives on a network whose ports and uplinks are shared.

What happens is taken in the order of time. A message passes one resource after the other: the port
of its sender, uplinks if they carry less than the ports below, the port of its receiver. Each
carries one message at a time, first come first served, and passes it on as it comes in
(cut-through). Without sharing this is LogGP, as in `comm.schedules.price`.
"""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.schedule import Copy, Reduce, Schedule, Send
from ringlet.runtime.planning.cluster import Cluster

Resource: TypeAlias = tuple[str, int, int]
"""(what, tier, number): the n-th "send" or "receive" port or "up" or "down" link of a tier."""


class Group(NamedTuple):
    """Ranks of the cluster that call a collective together: the schedule's rank i is `ranks[i]`."""

    ranks: tuple[int, ...]


@dataclass
class Run:
    """What a simulation has seen."""

    seconds: float = 0.0
    """Until the last rank has finished."""

    finished: dict[int, float] = field(default_factory=dict)
    """By rank of the cluster."""

    busy: dict[Resource, float] = field(default_factory=dict)
    """Seconds for which each resource carried something."""

    nbytes: dict[int, float] = field(default_factory=dict)
    """Bytes over each tier."""


class _Message(NamedTuple):
    key: tuple[int, int, int]
    route: tuple[tuple[Resource, float, float], ...]
    """For each resource: seconds for which it is busy, and seconds until the next one."""


def simulate_collective(
    schedule: Schedule,
    cluster: Cluster,
    groups: Sequence[Sequence[int]],
    nbytes: float,
    starts: Mapping[int, float] | None = None,
) -> Run:
    """All groups run the schedule at the same time, each rank from its start on (default: 0).

    `nbytes` is the whole array, as in `comm.schedules.price`. Raises ScheduleError if ranks wait
    for ever.
    """
    return _Events(schedule, cluster, groups, nbytes / max(schedule.array_slots, 1), starts).run()


class _Events:
    """A queue of events: messages that reach their next resource, and ranks that go on."""

    def __init__(
        self,
        schedule: Schedule,
        cluster: Cluster,
        groups: Sequence[Sequence[int]],
        slot: float,
        starts: Mapping[int, float] | None,
    ) -> None:
        self.schedule, self.cluster, self.groups, self.slot = schedule, cluster, groups, slot
        self.result = Run()
        self._free: dict[Resource, float] = {}
        self._routes: dict[tuple[int, int], tuple[tuple[Resource, float, float], ...]] = {}
        self._arrived: dict[tuple[int, int, int], deque[float]] = {}
        self._waiting: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._now = [
            [starts.get(rank, 0.0) if starts else 0.0 for rank in ranks] for ranks in groups
        ]
        self._position = [[0] * len(ranks) for ranks in groups]
        self._events: list[tuple[float, int, _Message | None, int, float]] = []
        self._count = 0

    def run(self) -> Run:
        for group, ranks in enumerate(self.groups):
            for rank in range(len(ranks)):
                self._go_on(group, rank)
        events = self._events
        while events:
            time, _, message, hop, tail = heapq.heappop(events)
            if message is not None:
                self._pass(time, message, hop, tail)
        for (group, _, rank), (_, position) in self._waiting.items():
            step = self.schedule.steps[rank][position]
            raise ScheduleError(f"{self.schedule}: rank {rank} of group {group} waits at {step}")
        self.result.seconds = max(self.result.finished.values(), default=0.0)
        return self.result

    def _go_on(self, group: int, rank: int) -> None:
        """The rank takes its steps until it has to wait."""
        steps, ranks = self.schedule.steps[rank], self.groups[group]
        position, now = self._position[group][rank], self._now[group][rank]
        while position < len(steps):
            step = steps[position]
            if isinstance(step, Send):
                route = self._route(ranks[rank], ranks[step.peer])
                self._push(now, _Message((group, rank, step.peer), route), 0, now)
            elif not isinstance(step, Copy):
                key = (group, step.peer, rank)
                if not self._arrived.get(key):
                    self._waiting[key] = (rank, position)
                    break
                now = max(now, self._arrived[key].popleft())
                if isinstance(step, Reduce):
                    now = self._combine(ranks[step.peer], ranks[rank], now)
            position += 1
        self._position[group][rank], self._now[group][rank] = position, now
        self._finish(ranks[rank], now)

    def _combine(self, peer: int, rank: int, now: float) -> float:
        tier = self.cluster.tier_of(peer, rank)
        cost = self.cluster.links[tier]
        now += self.slot * cost.combine
        if not cost.duplex:
            port = self._port("receive", tier, rank)
            self._free[port] = max(self._free.get(port, 0.0), now)
        return now

    def _pass(self, time: float, message: _Message, hop: int, tail: float) -> None:
        """The head of a message reaches a resource, its tail no earlier than `tail`."""
        resource, busy, latency = message.route[hop]
        start = max(time, self._free.get(resource, 0.0))
        done = max(start + busy, tail)
        self._free[resource] = done
        self.result.busy[resource] = self.result.busy.get(resource, 0.0) + busy
        if hop + 1 < len(message.route):
            self._push(start + latency, message, hop + 1, done + latency)
            if hop == 0:
                self._finish(self.groups[message.key[0]][message.key[1]], done)
            return
        group, _, rank = message.key
        self._arrived.setdefault(message.key, deque()).append(done)
        if self._waiting.pop(message.key, None):
            self._go_on(group, rank)

    def _push(self, time: float, message: _Message, hop: int, tail: float) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, message, hop, tail))

    def _finish(self, rank: int, time: float) -> None:
        self.result.finished[rank] = max(self.result.finished.get(rank, 0.0), time)

    def _route(self, sender: int, receiver: int) -> tuple[tuple[Resource, float, float], ...]:
        if (route := self._routes.get((sender, receiver))) is None:
            route = self._routes[sender, receiver] = self._find(sender, receiver)
        number = self.cluster.tier_of(sender, receiver)
        self.result.nbytes[number] = self.result.nbytes.get(number, 0.0) + self.slot
        return route

    def _find(self, sender: int, receiver: int) -> tuple[tuple[Resource, float, float], ...]:
        """The resources from one rank to another, the latency behind the sender's port."""
        number = self.cluster.tier_of(sender, receiver)
        tier = self.cluster.links[number]
        busy = tier.overhead + self.slot / tier.bandwidth
        hops = [(self._port("send", number, sender), busy, tier.latency)]
        if tier.oversubscription > 1 and number:
            below = self.cluster.links[number - 1].ranks
            carries = below / tier.sharing * tier.bandwidth / tier.oversubscription
            for what, rank in (("up", sender), ("down", receiver)):
                hops.append(((what, number, rank // below), self.slot / carries, 0.0))
        hops.append((self._port("receive", number, receiver), busy, 0.0))
        return tuple(hops)

    def _port(self, what: str, number: int, rank: int) -> Resource:
        tier = self.cluster.links[number]
        return what if tier.duplex else "port", number, rank // tier.sharing
