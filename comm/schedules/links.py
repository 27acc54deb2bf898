"""The measured links between ranks: latency, bandwidth and the cost of a message.

There are two kinds, `host` (between processes of one host, through sockets) and `network`. When
the world is made, one pair of ranks for each host and one for each two hosts exchange messages;
the medians are every rank's figures from then on.
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
"""Seconds to repeat large messages for, and the most repetitions."""

LEAST_S = 1e-7

SHARED_MEMORY = LinkCost(latency=5e-6, bandwidth=4e9)
"""Between ranks that read each other's memory; not measured, as it only competes with networks."""

ON_HOST = LinkCost(latency=40e-6, bandwidth=2.4e9, overhead=60e-6, duplex=False)
"""Stands for sockets on one host where the figures of the moment must not count. On two cores of a
Xeon every collective of long arrays moves 2.0 to 2.5 GB/s in all, in one direction or in both,
between two ranks or four."""

_NO_NETWORK = replace(ON_HOST, duplex=True)

NEAR, FAR, FAR_ABOVE = 100e-6, 10e-3, 1e-3
"""The two classes of latency, and where the second begins."""


@dataclass(frozen=True)
class Links:
    """The figures of a world. Their text is what RINGLET_LINKS takes."""

    host: LinkCost = ON_HOST
    network: LinkCost = _NO_NETWORK

    def __str__(self) -> str:
        return ";".join(
            f"{kind}={link.latency:.3g},{link.bandwidth:.3g},{link.overhead:.3g}"
            for kind, link in vars(self).items()
        )

    @classmethod
    def parse(cls, text: str) -> "Links":
        """The figures in the text; raises CommError if it is malformed."""
        try:
            pairs = (part.split("=") for part in text.split(";"))
            named = ((kind.strip(), figures) for kind, figures in pairs)
            return cls(**{kind: _link(figures, kind != "host") for kind, figures in named})
        except (ValueError, TypeError) as error:
            raise CommError(
                f"RINGLET_LINKS is {text!r}; it must be host=LATENCY,BANDWIDTH,OVERHEAD;"
                "network=..., in seconds, bytes per second and seconds per message"
            ) from error

    def coarse(self) -> "Links":
        """The figures rounded to few classes, so that the next run decides as this one does.

        On one host they depend mostly on what else runs at the moment, so they are constants. Of
        the network only the order of magnitude counts: bandwidth in powers of ten (Ethernet of 1
        and of 10 Gbit/s are mid-class), latency as within a building or across a continent.
        """
        latency = FAR if self.network.latency > FAR_ABOVE else NEAR
        bandwidth = 10.0 ** round(math.log10(self.network.bandwidth))
        return Links(ON_HOST, LinkCost(latency, bandwidth, ON_HOST.overhead))


def measure(group: Any, hosts: tuple[int, ...]) -> Links:
    """Measure the links of a group, where `hosts[rank]` is a number for the rank's host.

    A collective. A kind of link that does not exist in the group keeps its default.
    """
    figures = np.full((2, 3), np.nan)
    by_host = [[rank for rank, host in enumerate(hosts) if host == h] for h in sorted({*hosts})]
    on_hosts = [(ranks[0], ranks[1]) for ranks in by_host if len(ranks) > 1]
    firsts = [ranks[0] for ranks in by_host]  # no host is in two pairs
    between_hosts = list(zip(firsts[::2], firsts[1::2], strict=False))
    for kind, pairs in enumerate((on_hosts, between_hosts)):
        for pair in pairs:
            if group.rank in pair:
                figures[kind] = _ping_pong(group, pair)
    everybodys = group.all_gather(figures)
    known = [rows[~np.isnan(rows[:, 0])] for rows in np.swapaxes(everybodys, 0, 1)]
    links = [LinkCost(*np.median(rows, 0).tolist()) if len(rows) else ON_HOST for rows in known]
    return Links.parse(str(Links(*links)))  # no more exact than its text


def _ping_pong(group: Any, pair: tuple[int, int]) -> tuple[float, float, float]:
    """(latency, bandwidth, overhead) as `price` means them, seen by both ranks of the pair."""
    small, large = np.zeros(8, np.uint8), np.zeros(LARGE_BYTES, np.uint8)
    _exchange(group, pair, small, 1)
    round_trip = min(_exchange(group, pair, small, 1) for _ in range(PINGS))
    # A single message takes overhead + latency, so neither is more, even if a busy machine says so.
    alone = round_trip / 2
    burst = min(_exchange(group, pair, small, BURST) for _ in range(BURSTS))
    overhead = min(max(LEAST_S, (burst - round_trip) / (BURST - 1)), 0.9 * alone)
    started, times, again = time.perf_counter(), list[float](), np.ones(1)
    while again[0]:
        times.append(_exchange(group, pair, large, LARGE_MESSAGES))
        again[0] = len(times) < MOST_LARGE and time.perf_counter() - started <= LARGE_S
        if group.rank == pair[0]:
            group.send(again, pair[1])
        else:
            group.recv(pair[0], out=again)
    best = min(times)
    seconds = max(best - round_trip - LARGE_MESSAGES * overhead, best / 2)
    return alone - overhead, LARGE_BYTES * LARGE_MESSAGES / seconds, overhead


def _exchange(group: Any, pair: tuple[int, int], x: npt.NDArray[Any], messages: int) -> float:
    """The first of the pair sends x `messages` times, the second answers once it has all.

    Returns the seconds from the first message to the answer.
    """
    started, answer, out = time.perf_counter(), np.zeros(1), np.empty_like(x)
    if group.rank == pair[0]:
        works = [group.isend(x, pair[1]) for _ in range(messages)]
        group.recv(pair[1], out=answer)
        for work in works:
            work.wait()
    else:
        for _ in range(messages):
            group.recv(pair[0], out=out)
        group.send(answer, pair[0])
    return time.perf_counter() - started


def _link(text: str, duplex: bool) -> LinkCost:
    latency, bandwidth, overhead = (float(figure) for figure in text.split(","))
    if not (0 <= latency < math.inf and bandwidth > 0 and 0 <= overhead < math.inf):
        raise ValueError(text)
    return LinkCost(latency, bandwidth, overhead, duplex)
