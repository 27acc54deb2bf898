"""What collectives and transfers of a mesh's groups cost on a cluster.

Small groups are simulated (events.py), every distinct one once. For large ones, and for a search,
there are closed forms: in a ring of n ranks every round takes as long as the slowest port is busy,
or as the average hop; others take so many rounds of so much (Thakur et al., "Optimization of
collective communication operations in MPICH", 2005). Where several ranks of a group share a unit
of a tier there is also the hierarchical way (Cho et al., "BlueConnect", 2019).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.direct import Fence, direct_steps
from ringlet.comm.schedules.prove_direct import stretches
from ringlet.runtime.planning.cluster import Cluster
from ringlet.runtime.planning.events import Run, simulate_collective

SIMULATED_RANKS = 16
"""Larger groups are priced by closed forms: a ring of n has 2 n (n - 1) messages."""

MEMORY, RAILS = "memory", "rails"
"""Ways that are no schedule of messages of one group: ranks read each other's memory (comm's direct
schedules); a ring inside each host, and one across hosts for each rank of a host."""


CLOSED = (
    "ring", "hierarchical", RAILS, "recursive_doubling", "halving_doubling", "circulant", "bruck",
    "pairwise", "tree", "dissemination",
)  # fmt: skip
"""Those with closed forms. These take a ring's rounds alone as they are, others as if all went over
the outermost tier."""

COMBINED = {"all_reduce": 0.5, "reduce_scatter": 1.0, "reduce": 1.0}
"""Of what each rank receives, the part that it combines with its own."""


class Ranks(NamedTuple):
    """A group of a mesh: `size` ranks, each `stride` after the one before it. All groups of the
    kind are at work at the same time."""

    size: int
    stride: int


class CollectiveCost(NamedTuple):
    """Seconds of a collective by its fastest algorithm, and by tier those of its busiest port."""

    seconds: float = 0.0
    algorithm: str = ""
    carried: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Rounds:
    """Of n ranks: rounds, and the part of the array that each rank sends in all of them."""

    rounds: float
    sent: float


def _rounds(operation: str, algorithm: str, n: int) -> Rounds:
    part, doublings = (n - 1) / n, math.ceil(math.log2(n))
    both = 2 if operation == "all_reduce" else 1
    if algorithm in ("recursive_doubling", "tree", "dissemination"):
        return Rounds(doublings, doublings)
    if algorithm == "bruck" and operation == "all_to_all":
        return Rounds(doublings, doublings / 2)
    if algorithm in ("halving_doubling", "circulant", "bruck"):
        return Rounds(both * doublings, both * part)
    if algorithm == "scatter_all_gather":
        return Rounds(doublings + n - 1, 2 * part)
    if algorithm == "chain":
        return Rounds(n - 1, n - 1)
    if algorithm == "bidirectional_ring":
        return Rounds(2 * both * (n - 1), both * part)
    return Rounds(both * (n - 1), both * part)  # ring, pairwise, direct


class Fabric:
    """The links of a cluster, as the groups of a mesh use them."""

    def __init__(self, cluster: Cluster, simulated_ranks: int = SIMULATED_RANKS) -> None:
        self.cluster, self._simulated = cluster, simulated_ranks
        self.cost = lru_cache(maxsize=None)(self._cost)

    def collective(self, operation: str, group: Ranks, nbytes: float) -> float:
        """Seconds of a collective that all groups of the kind call at the same time."""
        return self.cost(operation, group, nbytes).seconds

    def _cost(self, operation: str, group: Ranks, nbytes: float) -> CollectiveCost:
        """By the fastest algorithm: if none is ever faster on a slower link, nor is the fastest."""
        if group.size == 1 or not nbytes:
            return CollectiveCost()
        names = self._algorithms(operation, group)
        best = min(self._by(operation, name, group, nbytes) for name in names)
        factor = self.cluster.links[self._tier(group)].factor(operation, nbytes)
        return best._replace(seconds=factor * best.seconds)

    def _by(self, operation: str, name: str, group: Ranks, nbytes: float) -> CollectiveCost:
        if group.size > self._simulated or name in (MEMORY, RAILS):
            carried = self._carried(operation, name, group, nbytes)
            return CollectiveCost(self._closed(operation, name, group, nbytes), name, carried)
        run = self.simulate(operation, name, group, nbytes)
        busiest: dict[str, float] = {}
        for (_, number, _), busy in run.busy.items():
            tier = self.cluster.links[number].name
            busiest[tier] = max(busiest.get(tier, 0.0), busy)
        return CollectiveCost(run.seconds, name, tuple(busiest.items()))

    def simulate(self, operation: str, algorithm: str, group: Ranks, nbytes: float) -> Run:
        """The run of one group, or of all that share ports and uplinks with it."""
        per_unit = self._inside(group)
        hierarchical = algorithm == "hierarchical"
        made = schedule(
            operation, algorithm, group.size, per_host=per_unit if hierarchical else None
        )
        return simulate_collective(made, self.cluster, self._together(group), nbytes)

    def _together(self, group: Ranks) -> list[list[int]]:
        """The groups that can meet at a port or an uplink."""
        top = self._tier(group)
        tier = self.cluster.links[top]
        meet = max((t.sharing for t in self.cluster.links[: top + 1]), default=1)
        if tier.oversubscription > 1 and top:
            meet = max(meet, self.cluster.links[top - 1].ranks)
        last = (group.size - 1) * group.stride
        count = max(1, min(group.stride, meet, self.cluster.ranks - last))
        return [list(range(first, first + last + 1, group.stride)) for first in range(count)]

    def _tier(self, group: Ranks) -> int:
        """The tier that a whole group needs."""
        return self.cluster.tier_of(0, (group.size - 1) * group.stride)

    def _inside(self, group: Ranks) -> int:
        """Ranks of a group in each unit below its outermost tier; 1 if that is no whole number."""
        top = self._tier(group)
        for number in range(top - 1, -1, -1):
            together = self.cluster.links[number].ranks // group.stride
            if together > 1 and group.size % together == 0:
                return together
        return 1

    def _algorithms(self, operation: str, group: Ranks) -> list[str]:
        """Those that come into question: ALGORITHMS, MEMORY or RAILS; only the pinned one, if one
        is."""
        if self.cluster.links[self._tier(group)].memory:
            return [MEMORY]
        names = [name for name, entry in ALGORITHMS[operation].items() if not entry.knows_hosts]
        if 1 < self._inside(group) < group.size:
            names += {"all_reduce": ["hierarchical"], "reduce_scatter": [RAILS],
                      "all_gather": [RAILS]}.get(operation, [])  # fmt: skip
        pinned = self.cluster.policy.pins.get(operation)
        if pinned in names:
            return [pinned]
        if not self.cluster.policy.by_price:
            return names[:1]
        return [n for n in names if group.size <= self._simulated or n in CLOSED] or names[:1]

    def _closed(self, operation: str, algorithm: str, group: Ranks, nbytes: float) -> float:
        if algorithm == MEMORY:
            return self._by_memory(operation, group, nbytes)
        if algorithm in ("hierarchical", RAILS):
            inside = self._inside(group)
            within = Ranks(inside, group.stride)
            across = Ranks(group.size // inside, group.stride * inside)
            if algorithm == "hierarchical":
                low = self._ring("reduce_scatter", within, nbytes) + self._ring(
                    "all_gather", within, nbytes
                )
            else:
                low = self._ring(operation, within, nbytes)
            return low + self._ring(operation, across, nbytes / inside)
        if algorithm == "ring":
            return self._ring(operation, group, nbytes)
        rounds = _rounds(operation, algorithm, group.size)
        tier = self.cluster.links[self._tier(group)]
        carried = self._bandwidth(group, self._tier(group), everybody=True)
        carried *= 1.0 if tier.duplex else 0.5
        if operation == "all_to_all":
            # Most of it goes to the outermost tier.
            inside = self._inside(group)
            carried *= (group.size - 1) / max(group.size - inside, 1)
        sent = rounds.sent * nbytes
        return (
            rounds.rounds * (tier.latency + tier.overhead)
            + sent / carried
            + sent * tier.combine * COMBINED.get(operation, 0.0)
        )

    def _ring(self, operation: str, group: Ranks, nbytes: float) -> float:
        n = group.size
        if n == 1:
            return 0.0
        slot = nbytes / n
        hops = self._hops(group)
        busy, whole = [], 0.0
        for number, count in hops:
            tier = self.cluster.links[number]
            seconds = tier.overhead + slot / self._bandwidth(group, number)
            combine = slot * tier.combine * COMBINED.get(operation, 0.0)
            busy.append(seconds if tier.duplex else 2 * seconds + combine)
            whole += count * (seconds + tier.latency + combine)
        rounds = (2 if operation == "all_reduce" else 1) * (n - 1)
        return rounds * max(*busy, whole / n)

    def _carried(
        self, operation: str, algorithm: str, group: Ranks, nbytes: float
    ) -> tuple[tuple[str, float], ...]:
        """By tier, seconds for which the busiest port is busy, by closed form."""
        if algorithm in ("hierarchical", RAILS):
            inside = self._inside(group)
            both = 2 if operation == "all_reduce" else 1
            hosts = group.size // inside
            levels = [
                (Ranks(inside, group.stride), both * (inside - 1) / inside * nbytes),
                (Ranks(hosts, group.stride * inside), both * (hosts - 1) / hosts * nbytes / inside),
            ]
        else:
            levels = [(group, _rounds(operation, algorithm, group.size).sent * nbytes)]
        found = []
        for ranks, sent in levels:
            tier = self.cluster.links[self._tier(ranks)]
            flows = min(tier.sharing, ranks.stride)  # one of each group sends over the tier
            found.append((tier.name, sent * flows / tier.bandwidth))
        return tuple(found)

    def _hops(self, group: Ranks) -> list[tuple[int, int]]:
        """(tier, how many of a ring's hops cross it)."""
        counts: dict[int, int] = {}
        members = [place * group.stride for place in range(group.size)]
        for rank, peer in pairwise((*members, 0)):
            number = self.cluster.tier_of(rank, peer)
            counts[number] = counts.get(number, 0) + 1
        return sorted(counts.items())

    def _bandwidth(self, group: Ranks, number: int, everybody: bool = False) -> float:
        """What each flow over this tier gets, while all groups of the kind do the same.

        Of the ranks below a port or an uplink, one of each group sends over the tier, as in a ring,
        or `everybody` does.
        """

        def flows(ranks: int) -> float:
            found = min(ranks, group.size * group.stride)
            return found if everybody else max(1.0, found / max(1, found // group.stride))

        return self._shared(number, flows)

    def _shared(self, number: int, flows: Callable[[int], float]) -> float:
        """What each flow over this tier gets; `flows` says how many come from so many ranks below a
        port or an uplink."""
        tier = self.cluster.links[number]
        share = 1.0 / flows(tier.sharing)
        if number and tier.oversubscription > 1:
            below = self.cluster.links[number - 1].ranks
            share = min(share, below / tier.sharing / tier.oversubscription / flows(below))
        return tier.bandwidth * share

    def _by_memory(self, operation: str, group: Ranks, nbytes: float) -> float:
        """Ranks that read each other's memory: between fences, what the busiest one moves."""
        tier = self.cluster.links[self._tier(group)]
        slots = 1 if operation in ("broadcast", "reduce") else group.size
        stretch = [
            list(stretches(direct_steps(operation, rank, group.size)))
            for rank in range(min(group.size, 2))
        ]
        moved = max(
            sum(
                len(move.targets) + len(move.sources)
                for part in own
                for move in part
                if not isinstance(move, Fence)
            )
            for own in stretch
        )
        fences = len(stretch[0]) - 1
        return fences * tier.latency + tier.overhead + moved * nbytes / slots / tier.bandwidth

    def transfer(
        self, sender: int, receiver: int, nbytes: float, at_once: int = 1
    ) -> tuple[float, float]:
        """(seconds for which a link is busy, seconds until a message has arrived besides) of a
        message between two ranks, while `at_once` neighbours send as well."""
        number = self.cluster.tier_of(sender, receiver)
        tier = self.cluster.links[number]
        bandwidth = self._shared(number, lambda ranks: min(at_once, ranks))
        return tier.overhead + nbytes / bandwidth, tier.latency
