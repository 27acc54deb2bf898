"""What the agents of a job's hosts tell each other when they meet, and what they agree on."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack

from ringlet.comm.join.key import JobKey
from ringlet.launcher.supervisor.failure import parse_failure

SPEAK_EVERY_S = 5.0

Word: TypeAlias = dict[str, Any]

_log = logging.getLogger("ringlet.agents")


@dataclass(frozen=True)
class Host:
    """One host of the job, as its agent says: number, workers, name, address."""

    node: int
    workers: int
    name: str
    address: str

    def __str__(self) -> str:
        return f"host {self.node} ({self.name}, {self.address})"


@dataclass(frozen=True)
class Place:
    """What one agent is told to be: `node` of `nodes`, and where agent 0 listens.

    The job may be as small as `least` hosts (0: `nodes`). If it may start again, with so many
    `restarts` or since it is elastic, a host may come while it runs, and belongs to it from its
    next start on.
    """

    node: int
    nodes: int
    workers: int
    address: str
    master: str
    key: JobKey | None
    started: bool = False  # by a launcher, which shows the output of all hosts
    least: int = 0
    restarts: int = 0

    @property
    def fewest(self) -> int:
        """How many hosts there have to be."""
        return self.least or self.nodes

    @property
    def elastic(self) -> bool:
        """Whether the job goes on without hosts that are lost."""
        return self.fewest < self.nodes


@dataclass(frozen=True)
class Plan:
    """What all agents agree on for one start: the hosts that are there, the job's name, the ranks'
    rendezvous, which start it is, and the workers' task, if agent 0 sets one."""

    hosts: list[Host]
    job: str
    rendezvous: str
    generation: int = 0
    task: str = ""

    @classmethod
    def parse(cls, fields: Any) -> "Plan":
        """The plan in an agent's word; raises TypeError or KeyError for what is none."""
        hosts = [parse_host(host) for host in fields["hosts"]]
        texts = (fields["job"], fields["rendezvous"], fields["task"])
        if type(fields["generation"]) is not int or not all(type(text) is str for text in texts):
            raise TypeError("a plan's generation is a number, the rest is text")
        return cls(hosts, fields["job"], fields["rendezvous"], fields["generation"], texts[2])

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return sum(host.workers for host in self.hosts)

    def host(self, node: int) -> Host:
        """The host of this number."""
        return next(host for host in self.hosts if host.node == node)

    def ranks(self, node: int) -> range:
        """The ranks of one host: in the order of the numbers of the hosts that are there."""
        first = sum(host.workers for host in self.hosts if host.node < node)
        return range(first, first + self.host(node).workers)


def parse_host(fields: Any) -> Host:
    """The host in an agent's word; raises TypeError for what is none."""
    host = Host(**fields)
    if type(host.node) is not int or type(host.workers) is not int:
        raise TypeError("node and workers are numbers")
    return Host(host.node, host.workers, str(host.name), str(host.address))


def _need(*kinds: type) -> Callable[[Any], Any]:
    def check(value: Any) -> None:
        if type(value) not in kinds:
            raise TypeError(f"{value!r:.40} is no {kinds[0].__name__}")

    return check


def _some_numbers(value: Any) -> None:
    _list_of(int)(value)
    if not value:
        raise TypeError("an empty list")


def _list_of(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> None:
        if type(value) is not list or not all(type(each) is kind for each in value):
            raise TypeError(f"{value!r:.40} is no list of {kind.__name__}")

    return check


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "join": parse_host, "nodes": _need(int), "version": _need(str), "plan": Plan.parse,
    "missing": _some_numbers, "here": _list_of(str), "refused": _need(str), "wait": _need(bool),
    "alive": _need(int), "failure": parse_failure, "ended": _need(int), "leaving": _need(bool),
    "verdict": lambda failure: failure is None or parse_failure(failure), "code": _need(int),
    "again": _need(bool),
}  # fmt: skip

_TOGETHER = {"join": ("nodes", "version"), "ended": ("leaving",), "verdict": ("code",)}


def read_word(data: bytes) -> Word:
    """An agent's word in the bytes; raises ValueError for anything else."""
    try:
        word = msgpack.unpackb(data)
        if type(word) is not dict:
            raise TypeError("no map")
        for name, value in word.items():
            _CHECKS[name](value)
            for other in _TOGETHER.get(name, ()):
                _CHECKS[other](word[other])
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise ValueError(f"no word of an agent: {error}") from error
    return word


class Speaker:
    """Says now and then who is there and who is missing."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._began = self._spoke = time.monotonic()

    def speak(self, missing: list[int], here: list[str]) -> None:
        """Say it, if it has not been said for a while."""
        now = time.monotonic()
        if missing and now - self._spoke >= SPEAK_EVERY_S:
            self._spoke = now
            there = f" (here: {', '.join(here)})" if here else ""
            _log.warning(
                "ringlet: has waited %.0f s at %s for %s%s",
                now - self._began, self._address, hosts_text(missing), there,
            )  # fmt: skip

    def text(self, missing: list[int], timeout: float) -> str:
        """The reproach at the end."""
        return f"{hosts_text(missing)} did not come to {self._address} within {timeout:.0f} s"


def hosts_text(nodes: list[int]) -> str:
    """host 1; hosts 1, 2 and 3."""
    if len(nodes) == 1:
        return f"host {nodes[0]}"
    return f"hosts {', '.join(map(str, nodes[:-1]))} and {nodes[-1]}"
