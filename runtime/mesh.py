"""The mesh: the ranks of a world as points of a grid, one axis for each kind of parallelism.

Shoeybi et al., "Megatron-LM" (2019) and Narayanan et al., "Efficient large-scale language model
training on GPU clusters" (2021): the axes that communicate most vary fastest, so that they lie on
one host. A rank belongs to one group along each axis and along each combination of axes.
"""

import math
from collections.abc import Iterable, Mapping

from ringlet.comm import Group

AXES = ("pp", "dp", "ep", "cp", "tp")
"""From the slowest axis to the fastest: pipeline, data, expert, context, tensor."""

MEANINGS = {
    "dp": "data", "tp": "tensor", "pp": "pipeline", "cp": "context", "ep": "expert",
}  # fmt: skip


class MeshError(ValueError):
    """A mesh does not fit the world, the options or the model; the message says what would."""


class Mesh:
    """A grid of ranks: `Mesh(world, dp=2, tp=2)`. Every rank of the world makes the same mesh.

    `shape` and `coordinates` map each axis to its length and to this rank's index along it. Raises
    MeshError unless the product of all axes is the size of the world.
    """

    def __init__(
        self, world: Group, *, dp: int = 1, tp: int = 1, pp: int = 1, cp: int = 1, ep: int = 1
    ) -> None:
        given = {"pp": pp, "dp": dp, "ep": ep, "cp": cp, "tp": tp}
        if problem := misfit(given, world.size):
            raise MeshError(problem)
        self.world = world
        self.shape = {axis: given[axis] for axis in AXES}
        self.coordinates = _coordinates(self.shape, world.rank)
        self._groups: dict[tuple[str, ...], Group] = {}

    def __repr__(self) -> str:
        return f"Mesh({mesh_text(self.shape)})"

    def size(self, *axes: str) -> int:
        """The number of ranks that differ in these axes only."""
        return math.prod(self.shape[axis] for axis in axes)

    def index(self, *axes: str) -> int:
        """This rank's number in `group(*axes)`."""
        number = 0
        for axis in _ordered(axes):
            number = number * self.shape[axis] + self.coordinates[axis]
        return number

    def group(self, *axes: str) -> Group:
        """The ranks that differ from this one in these axes only, the fastest axis last.

        A collective when a combination is first asked for: every rank of the world has to ask for
        the same ones in the same order.
        """
        key = tuple(axis for axis in _ordered(axes) if self.shape[axis] > 1)
        if key not in self._groups:
            others = {axis: n for axis, n in self.coordinates.items() if axis not in key}
            ranks = [
                rank
                for rank in range(self.world.size)
                if others.items() <= _coordinates(self.shape, rank).items()
            ]
            self._groups[key] = self._split(ranks) if len(ranks) < self.world.size else self.world
        return self._groups[key]

    @property
    def control(self) -> Group:
        """All ranks, for small messages that must not wait behind what is in flight on `world`.

        A collective of the world when it is first asked for.
        """
        if ("control",) not in self._groups:
            self._groups["control",] = self._split(range(self.world.size))
        return self._groups["control",]

    def besides(self, name: str, group: Group | None) -> Group | None:
        """Count what is sent in a group that is none along axes, too."""
        if group is not None:
            self._groups[name,] = group
        return group

    def bytes_sent(self) -> int:
        """Payload bytes that this rank has sent in the mesh's groups and the world."""
        return sum(self.sent().values())

    def sent(self) -> dict[str, int]:
        """The same by operation."""
        found: dict[str, int] = {}
        for group in {id(group): group for group in (self.world, *self._groups.values())}.values():
            for name, operation in group.stats()["operations"].items():
                found[name] = found.get(name, 0) + operation["bytes_sent"]
        return found

    def _split(self, ranks: Iterable[int]) -> Group:
        group = self.world.split(list(ranks))
        assert group is not None, "this rank is one of them"
        return group


def _ordered(axes: tuple[str, ...]) -> list[str]:
    unknown = set(axes) - set(AXES)
    if unknown:
        raise MeshError(f"a mesh has no axis {sorted(unknown)[0]!r}; there are {', '.join(AXES)}")
    return [axis for axis in AXES if axis in axes]


def _coordinates(shape: Mapping[str, int], rank: int) -> dict[str, int]:
    coordinates = {}
    for axis in reversed(AXES):
        rank, coordinates[axis] = divmod(rank, shape[axis])
    return coordinates


def mesh_text(shape: Mapping[str, int]) -> str:
    """dp=2, tp=2"""
    return ", ".join(f"{a}={shape[a]}" for a in MEANINGS if shape.get(a, 1) > 1) or "dp=1"


def parse_mesh(text: str) -> dict[str, int]:
    """The axes' lengths from `dp=2,tp=2`; raises MeshError."""
    shape: dict[str, int] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        axis, _, length = map(str.strip, entry.partition("="))
        if axis not in AXES:
            known = ", ".join(f"{name} ({meaning})" for name, meaning in MEANINGS.items())
            raise MeshError(f"a mesh has no axis {axis!r}; there are {known}")
        if not length.isdecimal() or int(length) < 1:
            raise MeshError(f"{axis} is {length!r}; it must be a whole number of at least 1")
        if axis in shape:
            raise MeshError(f"{axis} is given twice in {text!r}")
        shape[axis] = int(length)
    return shape


def misfit(shape: Mapping[str, int], ranks: int) -> str:
    """Why the axes' product is not the number of ranks, with what would fit; "" if it is."""
    for axis, length in shape.items():
        if length < 1:
            return f"{axis} is {length}; it must be at least 1"
    product = math.prod(shape.values())
    if product == ranks:
        return ""
    others = product // shape.get("dp", 1)
    if ranks % others == 0:
        fits = f"dp={ranks // others} would fit"
    else:
        fits = f"{others} would need to divide {ranks}, whose divisors are {divisors_text(ranks)}"
        fits += f"; or start {product} workers"
    mesh = mesh_text(shape)
    return f"a mesh of {mesh} has {product} ranks, and there are {ranks} workers: {fits}"


def divisors(number: int) -> list[int]:
    """The divisors of a number, rising."""
    return [part for part in range(1, number + 1) if number % part == 0]


def divisors_text(number: int) -> str:
    """The same for a sentence."""
    return ", ".join(map(str, divisors(number)))


def share(total: int, size: int, rank: int) -> tuple[int, int]:
    """This rank's part of `total` things, as (first, count); parts differ by one at most."""
    first, stop = total * rank // size, total * (rank + 1) // size
    return first, stop - first
