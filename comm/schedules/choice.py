"""Which algorithm a collective takes: the cheapest of the priced schedules, or a pinned one.

All ranks of a group choose alike, because a choice depends only on what they agree on: the
operation, the array's size, who is on which host, and the figures of the links. Operations that
only move data use the measured figures. Those that combine use powers of ten (`Links.coarse`),
because another algorithm adds in another order, and a repetition of the run, or its second half
after a resume, must have the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ringlet.comm.errors import CommError
from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.links import SHARED_MEMORY, Links
from ringlet.comm.schedules.price import LinkCost, Network, price
from ringlet.comm.schedules.schedule import SEGMENT_BYTES
from ringlet.comm.signature import COMBINING

SHARED = "shared_memory"
"""The algorithm without messages: ranks read each other's memory (direct.py)."""

LIBRARY = "mpi"
"""The all-reduce of the MPI library by which messages travel (comm/mpi/library.py)."""

REDUCTION_S = 0.3e-9
"""Seconds to combine two bytes: about float32 additions in cache."""

PRICED_RANKS = 16
"""Larger groups are priced as if they had this many: the time grows with the square."""

PRICED_SEGMENTS = 8

MARGIN = 0.9
"""An algorithm displaces one listed before it if it costs less than this part of it: the model is
not exact enough for smaller differences."""


EXCHANGE = "recursive_doubling"
"""Of two ranks' arrays of one segment: each sends its own whole, once. That is as many bytes as the
halves of a ring, in half as many messages, and what a message costs in taking turns on a core the
model does not know. Measured over TCP on a Xeon: 1 and 2 MiB take 0.83 of the ring's time, 4 MiB
0.82 to 0.93. Of several segments the ring streams: 64 MiB would take 1.1 times as long."""


@dataclass(frozen=True)
class Policy:
    """The user's wishes: pinned algorithms by operation; are the others chosen by price?"""

    pins: Mapping[str, str] = field(default_factory=dict)
    by_price: bool = True

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Parse RINGLET_ALGORITHM: auto, first or operation=algorithm, separated by commas.

        Raises CommError for an unknown operation or algorithm.
        """
        pins, by_price = {}, True
        for word in filter(None, (part.strip() for part in text.split(","))):
            operation, _, name = word.partition("=")
            if not name and operation in ("auto", "first"):
                by_price = operation == "auto"
                continue
            try:
                operation = operation.strip().replace("-", "_")
                pins[operation] = algorithm_named(operation, name.strip())
            except (KeyError, ValueError) as error:
                raise CommError(
                    f"RINGLET_ALGORITHM has {word!r}; it takes auto, first (each operation's "
                    f"first algorithm), or operation=algorithm: {error}"
                ) from error
        return cls(pins, by_price)

    @property
    def wants_links(self) -> bool:
        """Whether any choice depends on the links."""
        return self.by_price and len(self.pins) < len(ALGORITHMS)


def algorithm_named(operation: str, text: str) -> str:
    """The operation's algorithm of this name, with dashes or underscores; raises ValueError."""
    if operation not in ALGORITHMS:
        raise ValueError(f"unknown operation {operation!r}; there are {', '.join(ALGORITHMS)}")
    name, names = text.replace("-", "_"), [*ALGORITHMS[operation], SHARED]
    if operation == "all_reduce":
        names.append(LIBRARY)
    if name not in names:
        raise ValueError(f"{operation} has no algorithm {text!r}, but {', '.join(names)}")
    return name


class Choice:
    """Chooses for one group. `hosts[rank]` is a number for the host of the group's rank.

    `shares_hosts`: ranks of one host share memory, and the hierarchical form uses it.
    """

    def __init__(
        self, hosts: tuple[int, ...], policy: Policy, links: Links, shares_hosts: bool = False
    ) -> None:
        self.hosts, self.policy, self._links = hosts, policy, links
        self._shares_hosts = shares_hosts
        self._chosen: dict[tuple[str, int], str] = {}
        pins = policy.pins.items()
        self._pinned = {key: name for key, name in pins if name in self.candidates(key)}

    @cached_property
    def per_host(self) -> int | None:
        """Ranks on each host, if there are several hosts with equally many ranks; else None."""
        counts = {self.hosts.count(host) for host in self.hosts}
        return counts.pop() if len(counts) == 1 < len(set(self.hosts)) else None

    @cached_property
    def hierarchical(self) -> bool:
        """Whether the hierarchical form can run: several ranks on each of several hosts, which
        share memory or are numbered host by host, as schedules assume."""
        k = self.per_host or 1
        return k > 1 and (
            self._shares_hosts
            or all(host == self.hosts[rank - rank % k] for rank, host in enumerate(self.hosts))
        )

    def choose(self, operation: str, nbytes: int) -> str:
        """The algorithm for an array of `nbytes`, measured as in `price`."""
        if pinned := self.pinned(operation):
            return pinned
        # Only the root of a scatter knows the size.
        if operation == "scatter" or not self.policy.by_price:
            return next(iter(ALGORITHMS[operation]))
        key = (operation, 1 << max(0, nbytes - 1).bit_length())
        if key not in self._chosen:
            self._chosen[key] = self._cheapest(*key)
        return self._chosen[key]

    def pinned(self, operation: str) -> str:
        """The algorithm that the policy pins, if this group can run it; else empty."""
        return self._pinned.get(operation, "")

    def candidates(self, operation: str) -> list[str]:
        """The algorithms that this group can run over messages."""
        entries = ALGORITHMS[operation].items()
        return [name for name, entry in entries if self.hierarchical or not entry.knows_hosts]

    def _cheapest(self, operation: str, nbytes: int) -> str:
        names = self.candidates(operation)
        if len(names) == 1 or len(self.hosts) == 1:
            return names[0]
        if operation == "all_reduce" and len(self.hosts) == 2 and nbytes <= SEGMENT_BYTES:
            return EXCHANGE
        links = self._links.coarse() if operation in COMBINING else self._links
        best, least = "", float("inf")
        for name in names:
            seconds = self._price(operation, name, nbytes, links)
            if seconds < MARGIN * least:
                best, least = name, seconds
        return best

    def _price(self, operation: str, name: str, nbytes: int, links: Links) -> float:
        hosts, per_host, inside = self.hosts[:PRICED_RANKS], None, links.host
        if name == "hierarchical":
            # However ranks are numbered, it is the schedule of ranks numbered host by host.
            per_host = self.per_host or 1
            size = min(len(self.hosts), max(PRICED_RANKS // per_host, 2) * per_host)
            hosts = tuple(rank // per_host for rank in range(size))
            inside = SHARED_MEMORY if self._shares_hosts else inside

        def link(sender: int, receiver: int) -> LinkCost:
            return inside if hosts[sender] == hosts[receiver] else links.network

        priced = schedule(operation, name, len(hosts), per_host=per_host)
        segments = min(PRICED_SEGMENTS, -(-nbytes // (priced.slots * SEGMENT_BYTES)))
        network = Network(link, REDUCTION_S, host=hosts.__getitem__)
        return price(priced, network, nbytes, segments).seconds
