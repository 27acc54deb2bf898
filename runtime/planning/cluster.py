"""The description of a cluster: its devices, hosts, links and failures, as TOML.

Links come in tiers, from the innermost: ranks of one host over NVLink or shared memory, hosts of
one rack, racks. Ranks are numbered so that neighbours are near: rank r is in unit r // ranks of a
tier. docs/reference/clusters.md says how to write one; `shipped()` names those that come with the
package.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.comm.errors import CommError
from ringlet.comm.schedules.choice import Policy
from ringlet.comm.schedules.price import LinkCost
from ringlet.nn.files import read_toml
from ringlet.runtime.planning.device import Device, Measured
from ringlet.runtime.planning.figures import (
    ClusterError,
    check,
    check_keys,
    figure,
    flag,
    make,
    steps,
    tables,
    text,
    whole,
    write_toml,
)

FOLDER = "clusters"


@dataclass(frozen=True)
class Tier:
    """The links among the units of the tier below, within one unit of this tier.

    Figures as in `comm.schedules.price.LinkCost`. Each rank has a port of its own, or `sharing`
    neighbours have one together. Above each unit of the tier below is an uplink that carries what
    its ports can send, divided by `oversubscription`.
    """

    ranks: int = whole(least=2)
    """Ranks within one unit: those of a host, of a rack, of the cluster."""

    latency: float = figure()
    """Seconds until the first byte arrives."""

    bandwidth: float = figure(above=0.0)
    """Bytes per second of a port, in each direction."""

    overhead: float = figure(default=0.0)
    """Seconds for which each message keeps the ports busy, however short it is."""

    duplex: bool = flag(default=True)
    """Whether a rank sends, receives and computes at once."""

    memory: bool = flag(default=False)
    """Whether ranks read each other's memory instead of sending messages; then `latency` is a
    fence's, and `bandwidth` what each rank reads and writes."""

    sharing: int = whole(default=1)
    """Neighbouring ranks that share a port."""

    oversubscription: float = figure(default=1.0, least=1.0)
    """By how much the ports below an uplink can send more than it carries."""

    combine: float = figure(default=0.0)
    """Seconds to combine two bytes of what arrives."""

    factors: Mapping[str, tuple[tuple[float, float], ...]] = tables("bytes", "factor")
    """How much longer measured collectives among units took than these figures say: by name,
    [[bytes, factor], ...]. Between two sizes the factor changes evenly with their logarithm."""

    name: str = text()

    def __post_init__(self) -> None:
        check(self)
        if self.ranks % self.sharing:
            raise ClusterError(f"sharing is {self.sharing}; it must divide ranks, {self.ranks}")

    def factor(self, operation: str, nbytes: float) -> float:
        """How much longer a collective of so many bytes takes than the formulas say."""
        rows = self.factors.get(operation)
        if not rows:
            return 1.0
        sizes, factors = zip(*rows, strict=True)
        return float(np.interp(np.log(nbytes), np.log(sizes), factors))

    @property
    def cost(self) -> LinkCost:
        """What a message costs while nobody else sends."""
        return LinkCost(self.latency, self.bandwidth, self.overhead, self.duplex)


@dataclass(frozen=True)
class Slowdown:
    """How much slower work is beside other work."""

    neighbours: tuple[tuple[float, float], ...] = steps("factor", default=())
    """[[workers of a host that compute at the moment, factor], ...]: by how much longer each does.
    One alone has 1; between two entries the factor grows evenly."""

    sums: float = figure(default=0.0)
    """Seconds of computing lost for each second of communication beside it: where communication is
    arithmetic, as on a CPU. (Miao et al., "Galvatron", VLDB 2023: the overlap coefficient.)"""

    def __post_init__(self) -> None:
        check(self)

    def beside(self, workers: int) -> float:
        """The factor for this many workers on a host."""
        before, factor = 1.0, 1.0
        for count, this in self.neighbours:
            if count > workers:
                return factor + (this - factor) * (workers - before) / (count - before)
            before, factor = count, this
        return factor


@dataclass(frozen=True)
class Failures:
    """How often devices fail, and what it takes to go on."""

    device_hours: float = figure(above=0.0)
    """Hours of one device between failures."""

    host_hours: float = figure(default=0.0)
    """Hours of one host between failures of its own; 0: counted with the devices'."""

    link_hours: float = figure(default=0.0)
    """The same of the links of one device."""

    restart: float = figure(default=600.0)
    """Seconds from a failure until the job computes again, without what is repeated."""

    storage: float = figure(default=0.0)
    """Bytes per second at which the whole job writes a checkpoint; 0: it takes no time."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Cluster:
    """Hosts with the same devices, and the links between them."""

    device: Device
    devices: int = whole()
    """Devices, and so ranks, of each host."""

    hosts: int = whole(default=1)
    links: tuple[Tier, ...] = field(default=())
    """From the innermost tier to the outermost."""

    name: str = text()
    algorithms: str = text()
    """Of collectives, as in RINGLET_ALGORITHM; "" chooses the cheapest, as `comm` does."""

    slowdown: Slowdown = field(default_factory=Slowdown)
    failures: Failures | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.ranks > 1 and not self.links:
            raise ClusterError(f"links is missing: there are {self.ranks} devices")
        sizes = [tier.ranks for tier in self.links]
        for below, (number, ranks) in zip([1, *sizes], enumerate(sizes), strict=False):
            if ranks <= below or ranks % below:
                raise ClusterError(
                    f"links[{number}].ranks is {ranks}; it must be a multiple of the tier "
                    f"below, {below}"
                )
        if self.links and sizes[-1] < self.ranks:
            raise ClusterError(
                f"links[{len(sizes) - 1}].ranks is {sizes[-1]}; the outermost tier must reach all "
                f"{self.ranks} devices ({self.hosts} hosts of {self.devices})"
            )
        if self.hosts > 1 and self.devices > 1 and self.devices not in sizes:
            raise ClusterError(
                f"devices is {self.devices}; with several hosts some tier must have that many ranks"
            )
        for number, tier in enumerate(self.links):
            if tier.memory and tier.ranks > self.devices:
                raise ClusterError(
                    f"links[{number}].memory is true; hosts of {self.devices} share none among "
                    f"{tier.ranks} ranks"
                )
        try:
            self.policy  # noqa: B018
        except CommError as error:
            raise ClusterError(f"algorithms: {error}") from error

    @property
    def ranks(self) -> int:
        """Devices in all."""
        return self.hosts * self.devices

    @cached_property
    def policy(self) -> Policy:
        """How collectives choose their algorithms."""
        return Policy.parse(self.algorithms)

    def tier_of(self, rank: int, peer: int) -> int:
        """The number of the innermost tier that joins two ranks."""
        for number, tier in enumerate(self.links):
            if rank // tier.ranks == peer // tier.ranks:
                return number
        raise ClusterError(f"ranks {rank} and {peer} are not both of {self.ranks}")

    def of(self, ranks: int) -> "Cluster":
        """The same, cut to the hosts that so many ranks need; raises ClusterError if too few."""
        if ranks > self.ranks:
            raise ClusterError(
                f"{self.name or 'the cluster'} has {self.ranks} devices, not {ranks}"
            )
        return replace(self, hosts=-(-ranks // self.devices))

    def __str__(self) -> str:
        """TOML that `parse_cluster` reads back."""
        return write_toml(self)


def shipped() -> list[str]:
    """The names of the descriptions that come with the package."""
    files = resources.files(__package__).joinpath(FOLDER).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_cluster(name: str | Path) -> Cluster:
    """A description from a file, or a shipped one by its name; raises ClusterError."""
    if isinstance(name, str) and name in shipped():
        folder = resources.files(__package__).joinpath(FOLDER)
        with resources.as_file(folder.joinpath(f"{name}.toml")) as path:
            return parse_cluster(read_toml(path, ClusterError), name)
    path = Path(name)
    if not path.suffix and not path.exists():
        raise ClusterError(
            f"there is no cluster {name}; there are {', '.join(shipped())}, or a file"
        )
    return parse_cluster(read_toml(path, ClusterError), str(path))


def parse_cluster(table: dict[str, Any], where: str = "") -> Cluster:
    """A description from TOML's tables; errors begin with `where`, a file's name."""
    try:
        check_keys(Cluster, table)
        device = dict(_required(table, "device"))
        measured = [
            make(Measured, entry, f"device.operators[{number}]")
            for number, entry in enumerate(_list(device, "device.operators", "operators"))
        ]
        links = [
            make(Tier, entry, f"links[{number}]")
            for number, entry in enumerate(_list(table, "links", "links"))
        ]
        parts: dict[str, Any] = {
            "device": make(Device, device, "device", operators=tuple(measured)),
            "links": tuple(links),
        }
        for key, kind in (("slowdown", Slowdown), ("failures", Failures)):
            if key in table:
                parts[key] = make(kind, table[key], key)
        return make(Cluster, table, **parts)
    except ClusterError as error:
        raise ClusterError(f"{where}: {error}" if where else str(error)) from error


def _required(table: dict[str, Any], key: str) -> dict[str, Any]:
    if key not in table:
        raise ClusterError(f"{key} is missing")
    if not isinstance(table[key], dict):
        raise ClusterError(f"{key} is {table[key]!r}; it must be a table")
    return table[key]


def _list(table: dict[str, Any], where: str, key: str) -> list[Any]:
    entries = table.get(key, [])
    if not isinstance(entries, list):
        raise ClusterError(f"{where} is {entries!r}; it must be a list of tables")
    return entries
