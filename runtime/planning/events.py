"""Discrete events: collectives on a network whose ports and uplinks are shared.

What happens is taken in the order of time. A message passes one resource after the other: the port
of its sender, the uplinks of the units that it leaves and enters, the port of its receiver. Each
carries one message at a time and passes it on as it comes in (cut-through). Without sharing this is
LogGP, as in `comm.schedules.price`.

No message overtakes another: everywhere they pass in the order in which they would if each took one
round. First come, first served would let figures change the order, and then a slower link may make
the whole faster (Graham, "Bounds on multiprocessing timing anomalies", 1969). So it never does.
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
"""(what, tier, number): the n-th "send" or "receive" port, or "up" or "down" link, of a tier."""

Order: TypeAlias = dict[Resource, list[tuple[int, int, int]]]
"""By resource, the messages that pass, as (group, sender, how many it had sent before)."""


@dataclass
class Run:
    """What a simulation has seen."""

    seconds: float = 0.0
    """Until the last rank has finished."""

    finished: dict[int, float] = field(default_factory=dict)
    """By rank of the cluster."""

    busy: dict[Resource, float] = field(default_factory=dict)
    """Seconds for which each resource carried something."""


class _Hop(NamedTuple):
    """A resource on a message's way: how long it is busy, and the latency behind it."""

    resource: Resource
    busy: float
    latency: float = 0.0
    mixes: bool = False
    """Whether it carries pieces of several messages in turn, as an uplink of many ports does: then
    a full one delays a message's end but not its beginning."""


class _Message(NamedTuple):
    name: tuple[int, int, int]
    receiver: int
    route: tuple[_Hop, ...]


def simulate_collective(
    schedule: Schedule,
    cluster: Cluster,
    groups: Sequence[Sequence[int]],
    nbytes: float,
    starts: Mapping[int, float] | None = None,
) -> Run:
    """All groups run the schedule at the same time, each rank from its start on (default: 0).

    `groups` are ranks of the cluster: the schedule's rank i is `ranks[i]` of each. `nbytes` is the
    whole array, as in `comm.schedules.price`. Raises ScheduleError if ranks wait for ever.
    """
    slot = nbytes / max(schedule.array_slots, 1)
    rounds = _Rounds(schedule, cluster, groups, slot, {})
    rounds.run()
    events = _Events(schedule, cluster, groups, slot, starts or {})
    events.turns = {resource: deque(order) for resource, order in rounds.order.items()}
    return events.run()


class _Events:
    """A queue of events: a message reaches its next resource."""

    def __init__(
        self,
        schedule: Schedule,
        cluster: Cluster,
        groups: Sequence[Sequence[int]],
        slot: float,
        starts: Mapping[int, float],
    ) -> None:
        self.schedule, self.cluster, self.groups, self.slot = schedule, cluster, groups, slot
        self.result = Run()
        self.turns: dict[Resource, deque[tuple[int, int, int]]] = {}
        self._early: dict[tuple[Resource, tuple[int, int, int]], tuple[float, _Message, int]] = {}
        self._free: dict[Resource, float] = {}
        self._routes: dict[tuple[int, int], tuple[_Hop, ...]] = {}
        self._arrived: dict[tuple[int, int, int], deque[float]] = {}
        self._waiting: set[tuple[int, int, int]] = set()
        self._now = [[starts.get(rank, 0.0) for rank in ranks] for ranks in groups]
        self._position = [[0] * len(ranks) for ranks in groups]
        self._sent = [[0] * len(ranks) for ranks in groups]
        self._events: list[tuple[float, int, float, _Message, int]] = []
        self._count = 0

    def run(self) -> Run:
        for group, ranks in enumerate(self.groups):
            for rank in range(len(ranks)):
                self._go_on(group, rank)
        while self._events:
            time, _, tail, message, hop = heapq.heappop(self._events)
            self._reach(time, tail, message, hop)
        for group, peer, rank in self._waiting:
            step = self.schedule.steps[rank][self._position[group][rank]]
            raise ScheduleError(f"{self.schedule}: rank {rank} waits at {step} for rank {peer}")
        self.result.seconds = max(self.result.finished.values(), default=0.0)
        return self.result

    def _go_on(self, group: int, rank: int) -> None:
        """The rank takes its steps until it has to wait."""
        steps, ranks = self.schedule.steps[rank], self.groups[group]
        position, now = self._position[group][rank], self._now[group][rank]
        while position < len(steps):
            step = steps[position]
            if isinstance(step, Send):
                name = group, rank, self._sent[group][rank]
                self._sent[group][rank] += 1
                route = self._route(ranks[rank], ranks[step.peer])
                self._push(now, now, _Message(name, step.peer, route), 0)
            elif not isinstance(step, Copy):
                key = (group, step.peer, rank)
                if not self._arrived.get(key):
                    self._waiting.add(key)
                    break
                now = max(now, self._arrived[key].popleft())
                if isinstance(step, Reduce):
                    now = self._combine(ranks[step.peer], ranks[rank], now)
            position += 1
        self._position[group][rank], self._now[group][rank] = position, now
        self._finish(ranks[rank], now)

    def _combine(self, peer: int, rank: int, now: float) -> float:
        number = self.cluster.tier_of(peer, rank)
        tier = self.cluster.links[number]
        now += self.slot * tier.combine
        if not tier.duplex:
            port = self._port("receive", number, rank)
            self._free[port] = max(self._free.get(port, 0.0), now)
        return now

    def _reach(self, time: float, tail: float, message: _Message, hop: int) -> None:
        """The head of a message is at a resource; its tail comes at `tail`."""
        resource = message.route[hop].resource
        self._early[resource, message.name] = tail, message, hop
        turns = self.turns[resource]
        while turns and (early := self._early.pop((resource, turns[0]), None)):
            turns.popleft()
            self._pass(time, *early)

    def _pass(self, time: float, tail: float, message: _Message, hop: int) -> None:
        """The message passes a resource: it is there, and it is its turn."""
        resource, busy, latency, mixes = message.route[hop]
        start = max(time, self._free.get(resource, 0.0))
        self._free[resource] = start + busy  # what comes in more slowly leaves room for others
        done = max(start + busy, tail)
        start = time if mixes else start
        self.result.busy[resource] = self.result.busy.get(resource, 0.0) + busy
        group, sender, _ = message.name
        if hop + 1 < len(message.route):
            self._push(start + latency, done + latency, message, hop + 1)
            if hop == 0:
                self._finish(self.groups[group][sender], done)
            return
        key = group, sender, message.receiver
        self._arrived.setdefault(key, deque()).append(done)
        if key in self._waiting:
            self._waiting.remove(key)
            self._go_on(group, message.receiver)

    def _push(self, time: float, tail: float, message: _Message, hop: int) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, tail, message, hop))

    def _finish(self, rank: int, time: float) -> None:
        self.result.finished[rank] = max(self.result.finished.get(rank, 0.0), time)

    def _route(self, sender: int, receiver: int) -> tuple[_Hop, ...]:
        if (route := self._routes.get((sender, receiver))) is None:
            route = self._routes[sender, receiver] = self._find(sender, receiver)
        return route

    def _find(self, sender: int, receiver: int) -> tuple[_Hop, ...]:
        """The resources from one rank to another."""
        number = self.cluster.tier_of(sender, receiver)
        tier = self.cluster.links[number]
        busy = tier.overhead + self.slot / tier.bandwidth
        hops = [_Hop(self._port("send", number, sender), busy, tier.latency)]
        if number:
            below = self.cluster.links[number - 1].ranks
            carries = below / tier.sharing * tier.bandwidth / tier.oversubscription
            for what, rank in (("up", sender), ("down", receiver)):
                hops.append(_Hop((what, number, rank // below), self.slot / carries, mixes=True))
        hops.append(_Hop(self._port("receive", number, receiver), busy))
        return tuple(hops)

    def _port(self, what: str, number: int, rank: int) -> Resource:
        tier = self.cluster.links[number]
        return what if tier.duplex else "port", number, rank // tier.sharing


class _Rounds(_Events):
    """The same with a round for each message and resource, first come, first served; notes the
    order."""

    order: Order

    def run(self) -> Run:
        self.order = {}
        return super().run()

    def _find(self, sender: int, receiver: int) -> tuple[_Hop, ...]:
        return tuple(hop._replace(busy=1.0, latency=0.0) for hop in super()._find(sender, receiver))

    def _combine(self, peer: int, rank: int, now: float) -> float:
        return now

    def _reach(self, time: float, tail: float, message: _Message, hop: int) -> None:
        self.order.setdefault(message.route[hop].resource, []).append(message.name)
        self._pass(time, tail, message, hop)
