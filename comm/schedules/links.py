"""What lies between the ranks, measured: latency, bandwidth and cost of a message of each link.

There are two kinds, `host` (between processes of one host, through sockets) and `network`. One
pair of ranks for each host and one for each two hosts play a little ping-pong when the world is
made; the medians are every rank's figures from then on.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ringlet.comm.errors import CommError
from ringlet.comm.schedules.price import LinkCost

PINGS, BURST, BURSTS = 32, 32, 3
LARGE_BYTES, LARGE_MESSAGES = 512 * 1024, 4
LARGE_S, MOST_LARGE = 0.1, 4
"""Large messages are repeated for so long, or so often."""

LEAST_S = 1e-7

SHARED_MEMORY = LinkCost(latency=5e-6, bandwidth=4e9)
"""Of ranks that read each other's memory; a constant, for it is only compared with networks."""

ON_HOST = LinkCost(latency=40e-6, bandwidth=2.4e9, overhead=60e-6, duplex=False)
"""What is said of sockets on one host where the figures of the moment must not count. On two cores
of a Xeon every collective of long arrays moves 2.0 to 2.5 GB/s in all, whether in one direction or
in both, between two ranks or four."""

_NO_NETWORK = replace(ON_HOST, duplex=True)

NEAR, FAR, FAR_ABOVE = 100e-6, 10e-3, 1e-3
"""Latencies of the two classes, and the least of the second."""


@dataclass(frozen=True)
class Links:
    """The figures of a world; as text, they are what RINGLET_LINKS takes."""

    host: LinkCost = ON_HOST
    network: LinkCost = _NO_NETWORK

    def __str__(self) -> str:
        kinds = (("host", self.host), ("network", self.network))
        return ";".join(f"{kind}={_text(link)}" for kind, link in kinds)

    @classmethod
    def parse(cls, text: str) -> "Links":
        """The figures in the text; raises CommError for what are none."""
        try:
            pairs = (part.split("=") for part in text.split(";"))
            named = ((kind.strip(), figures) for kind, figures in pairs)
            return cls(**{kind: _link(figures, kind != "host") for kind, figures in named})
        except (ValueError, TypeError) as error:
            raise CommError(
                f"RINGLET_LINKS is {text!r}; it has to be host=LATENCY,BANDWIDTH,OVERHEAD;"
                "network=..., in seconds, bytes per second and seconds a message"
            ) from error

    def coarse(self) -> "Links":
        """The same in few classes: what is decided by these is decided alike in the next run.

        On one host figures depend most on who else computes at the moment, so they are constants.
        Of the network only the order of magnitude counts: bandwidth in powers of ten (an Ethernet
        of 1 Gbit/s and one of 10 stand in the middle of theirs), latency as that of a building
        or that of a continent.
        """
        latency = FAR if self.network.latency > FAR_ABOVE else NEAR
        bandwidth = 10.0 ** round(math.log10(self.network.bandwidth))
        return Links(ON_HOST, LinkCost(latency, bandwidth, ON_HOST.overhead))


def measure(group: Any, hosts: tuple[int, ...]) -> Links:
    """Measure the links of a group: `hosts[rank]` is a number for the rank's host. A collective.

    Kinds of which there is no link keep their defaults.
    """
    figures = np.full((2, 3), np.nan)
    for kind, pairs in enumerate((_on_hosts(hosts), _between_hosts(hosts))):
        for pair in pairs:
            if group.rank in pair:
                figures[kind] = _ping_pong(group, pair)
    everybodys = group.all_gather(figures)
    known = [rows[~np.isnan(rows[:, 0])] for rows in np.swapaxes(everybodys, 0, 1)]
    links = [LinkCost(*np.median(rows, 0).tolist()) if len(rows) else ON_HOST for rows in known]
    return Links.parse(str(Links(*links)))  # as exact as its text


def _on_hosts(hosts: tuple[int, ...]) -> list[tuple[int, int]]:
    """The first two ranks of every host that has two."""
    members = [[rank for rank, host in enumerate(hosts) if host == h] for h in sorted({*hosts})]
    return [(ranks[0], ranks[1]) for ranks in members if len(ranks) > 1]


def _between_hosts(hosts: tuple[int, ...]) -> list[tuple[int, int]]:
    """The first ranks of hosts 0 and 1, of 2 and 3, ...: no host is in two pairs."""
    leaders = [hosts.index(host) for host in sorted({*hosts})]
    return list(zip(leaders[::2], leaders[1::2], strict=False))


def _ping_pong(group: Any, pair: tuple[int, int]) -> tuple[float, float, float]:
    """(latency, bandwidth, overhead) as `price` means them, seen by both ranks of the pair."""
    game = _Game(group, pair)
    small, large = np.zeros(8, np.uint8), np.zeros(LARGE_BYTES, np.uint8)
    game.play(small, 1, 2)
    round_trip = min(game.play(small, 1, PINGS))
    # A message alone takes overhead and latency, so neither is more; that holds of a busy
    # machine's figures, too.
    alone = round_trip / 2
    burst = min(game.play(small, BURST, BURSTS))
    overhead = min(max(LEAST_S, (burst - round_trip) / (BURST - 1)), 0.9 * alone)
    started, times = time.perf_counter(), list[float]()
    for turn in range(MOST_LARGE):
        times += game.play(large, LARGE_MESSAGES, 1)
        if game.tell(turn + 1 < MOST_LARGE and time.perf_counter() - started > LARGE_S):
            break
    most = min(times)
    seconds = max(most - round_trip - LARGE_MESSAGES * overhead, most / 2)
    return alone - overhead, LARGE_BYTES * LARGE_MESSAGES / seconds, overhead


class _Game:
    """The first of the pair serves, the second answers when all messages are there."""

    def __init__(self, group: Any, pair: tuple[int, int]) -> None:
        self._group, self._serves = group, group.rank == pair[0]
        self._peer = pair[1] if self._serves else pair[0]
        self._answer = np.zeros(1)

    def play(self, x: npt.NDArray[Any], messages: int, times: int) -> list[float]:
        """The seconds from the first message to the answer, as often as told."""
        return [self._once(x, messages) for _ in range(times)]

    def _once(self, x: npt.NDArray[Any], messages: int) -> float:
        started, group, out = time.perf_counter(), self._group, np.empty_like(x)
        if self._serves:
            works = [group.isend(x, self._peer) for _ in range(messages)]
            group.recv(self._peer, out=self._answer)
            for work in works:
                work.wait()
        else:
            for _ in range(messages):
                group.recv(self._peer, out=out)
            group.send(self._answer, self._peer)
        return time.perf_counter() - started

    def tell(self, word: bool) -> bool:
        """The server's word, on both."""
        said = np.array([float(word)])
        if self._serves:
            self._group.send(said, self._peer)
        else:
            self._group.recv(self._peer, out=said)
        return bool(said[0])


def _text(link: LinkCost) -> str:
    return ",".join(f"{figure:.3g}" for figure in (link.latency, link.bandwidth, link.overhead))


def _link(text: str, duplex: bool) -> LinkCost:
    latency, bandwidth, overhead = (float(figure) for figure in text.split(","))
    if not (0 <= latency < math.inf and bandwidth > 0 and 0 <= overhead < math.inf):
        raise ValueError(text)
    return LinkCost(latency, bandwidth, overhead, duplex)
