"""What the agents of a job's hosts tell each other, and what they agree on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_origin, get_type_hints

from ringlet.comm.join.meeting import Notice, check_types
from ringlet.launcher.supervisor.failure import Failure

T = TypeVar("T")


@dataclass(frozen=True)
class HostInfo:
    """One host of the job, as its agent introduces it: `node` is its number."""

    node: int
    workers: int
    name: str
    address: str

    def __str__(self) -> str:
        return f"host {self.node} ({self.name}, {self.address})"


@dataclass(frozen=True)
class Assignment:
    """What all agents agree on for one start of the job: the hosts that take part, the job's name,
    the ranks' rendezvous, the number of the start, and the workers' task, if host 0 sets one."""

    hosts: list[HostInfo]
    job: str
    rendezvous: str
    generation: int = 0
    task: str = ""

    @classmethod
    def parse(cls, fields: Any) -> "Assignment":
        """The assignment in a notice; raises TypeError or KeyError for anything else."""
        hosts = check_types(fields, {"hosts": list})["hosts"]
        return parse(cls, {**fields, "hosts": [parse(HostInfo, host) for host in hosts]})

    @property
    def size(self) -> int:
        """The number of ranks."""
        return sum(host.workers for host in self.hosts)

    def host(self, node: int) -> HostInfo:
        """The host of this number."""
        return next(host for host in self.hosts if host.node == node)

    def ranks(self, node: int) -> range:
        """The ranks of one host. Ranks are given out in the order of the hosts' numbers."""
        first = sum(host.workers for host in self.hosts if host.node < node)
        return range(first, first + self.host(node).workers)


def parse(kind: type[T], fields: Any) -> T:
    """The dataclass in a notice; raises TypeError or KeyError unless all its fields are there, of
    the right types."""
    types = {name: get_origin(hint) or hint for name, hint in get_type_hints(kind).items()}
    return kind(**check_types(fields, types))


_TYPES = {
    "nodes": int, "version": str, "job": str, "missing": list, "here": list, "refused": str,
    "wait": bool, "later": bool, "alive": int, "ended": int, "leaving": bool, "code": int,
    "again": bool,
}  # fmt: skip
_ITEMS = {"missing": int, "here": str}
_CHECKS: dict[str, Callable[[Any], object]] = {
    "join": lambda value: parse(HostInfo, value),
    "assignment": Assignment.parse,
    "failure": lambda value: parse(Failure, value),
    "outcome": lambda value: value is None or parse(Failure, value),
}
_REQUIRED = {"join": ("nodes", "version", "job"), "ended": ("leaving",), "outcome": ("code",)}


def check_notice(notice: Notice) -> None:
    """Raise TypeError or KeyError unless this is a notice of an agent."""
    for name, value in notice.items():
        if name in _CHECKS:
            _CHECKS[name](value)
        else:
            check_types(notice, {name: _TYPES[name]})
        if name in _ITEMS and not {*map(type, value)} <= {_ITEMS[name]}:
            raise TypeError(f"{name} is {value!r:.40}; its items must be {_ITEMS[name].__name__}")
        if name == "missing" and not value:
            raise TypeError("missing is an empty list")
        for other in _REQUIRED.get(name, ()):
            notice[other]
