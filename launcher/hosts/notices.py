"""What the agents of a job's hosts tell each other, and what they agree on."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_origin

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
    known: Any = kind
    types: dict[str, Any] = {
        each.name: get_origin(each.type) or each.type for each in dataclasses.fields(known)
    }
    return kind(**check_types(fields, types))


def _is(kind: type) -> Callable[[Any], object]:
    return lambda value: check_types({"value": value}, {"value": kind})


def _list_of(kind: type, least: int = 0) -> Callable[[Any], None]:
    def check(values: Any) -> None:
        if type(values) is not list or len(values) < least:
            raise TypeError(f"{values!r:.40} is not a list")
        for value in values:
            _is(kind)(value)

    return check


_CHECKS: dict[str, Callable[[Any], object]] = {
    "join": lambda value: parse(HostInfo, value), "nodes": _is(int), "version": _is(str),
    "assignment": Assignment.parse, "missing": _list_of(int, least=1), "here": _list_of(str),
    "refused": _is(str), "wait": _is(bool), "alive": _is(int),
    "failure": lambda value: parse(Failure, value), "ended": _is(int), "leaving": _is(bool),
    "outcome": lambda value: value is None or parse(Failure, value), "code": _is(int),
    "again": _is(bool),
}  # fmt: skip

_REQUIRED = {"join": ("nodes", "version"), "ended": ("leaving",), "outcome": ("code",)}


def check_notice(notice: Notice) -> None:
    """Raise TypeError or KeyError unless this is a notice of an agent."""
    for name, value in notice.items():
        _CHECKS[name](value)
        for other in _REQUIRED.get(name, ()):
            notice[other]
