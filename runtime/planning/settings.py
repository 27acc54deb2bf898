"""All ways to train a model on a cluster that the rules allow, and what each takes at least."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise, product
from typing import Any, NamedTuple, TypeAlias

from ringlet.runtime.mesh import AXES, divisors
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.formulas import Shape, bubble, least_of_any_cut, least_seconds
from ringlet.runtime.pipeline.schedules import SCHEDULES, fit_problem, recipe_of
from ringlet.runtime.planning.cluster import Cluster
from ringlet.runtime.planning.costs import ModelCosts, Seconds
from ringlet.runtime.planning.crowding import crowding
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.finish import least_besides
from ringlet.runtime.planning.models import Model
from ringlet.runtime.planning.setting import RINGLET, Program, Setting
from ringlet.runtime.planning.stages import balanced
from ringlet.runtime.rules import MODEL, MODULE, OPTIONS, RUN, problem

Sums: TypeAlias = tuple[list[float], ...]
"""Of several parts of the work, seconds of the first 0, 1, 2, ... blocks; with the ends, which are
counted with the first and the last block."""

CHUNKS = [2, 3, 4, 6, 8]
"""Stages on each rank that an interleaved pipeline is tried with."""

SEARCHED_ACTIONS = 512
"""Schedules that are searched for are tried up to so many micro-batches times ranks."""

FACTS: dict[str, Any] = {
    "optimizer": "adamw", "clip": 1.0, "device": "cpu", "steps": 1, "checkpoint_every": 1,
    "padding_idx": None, "frozen": (), "masked": False, "missing": (),
    "head_norm": False,
}  # fmt: skip
"""What the rules ask for beside mesh and options, where nobody says."""


@dataclass(frozen=True)
class Request:
    """What is to be trained, and where.

    `batch` counts samples. `ranks` are all of the cluster unless given, `memory` is the limit of a
    rank in bytes, that of the device unless given. `options` hold what no search may change, as
    it changes the mathematics (compression, local steps). `fixed` are choices that the user has
    made: lengths of axes, `micro_batch` (samples), `accumulate` (how many micro-batches) or names
    of options, which `options` then have, too. `facts` are others that rules ask for.
    """

    model: Model
    cluster: Cluster
    batch: int
    ranks: int = 0
    memory: float = 0.0
    program: Program = RINGLET
    options: Parallelism = field(default_factory=Parallelism)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """How many ranks train."""
        return self.ranks or self.cluster.ranks

    @property
    def limit(self) -> float:
        """Bytes that a rank may need."""
        return self.memory or self.cluster.device.memory

    def problem(self, setting: Setting) -> str:
        """Why a setting cannot be; "" if it can."""
        model, mesh = self.model, setting.mesh
        kinds, _ = model.kinds
        plain = all(b.causal and not b.cross and not b.window for b in kinds)
        for block in kinds:
            shared = block.kv_heads if block.kv_heads != block.heads else 0
            facts = {
                **FACTS, **vars(setting.options), **mesh, **self.facts,
                "shape": mesh, "workers": self.workers, "batch_size": self.batch,
                "accumulate": setting.micro_batches, "block_size": model.context,
                "n_layer": len(model.blocks), "n_head": block.heads, "n_kv_head": shared,
                "experts": block.experts, "plain": plain or mesh["cp"] == 1,
                "ranks": self.workers, "head_norm": block.head_norm,
            }  # fmt: skip
            if text := problem(facts, OPTIONS, RUN, MODEL, MODULE):
                return text
        return ""

    def tried(self, name: str, values: list[Any]) -> list[Any]:
        """The values of an option that are tried: one if the user has chosen it."""
        return [self.fixed[name]] if name in self.fixed else values


def meshes(request: Request) -> Iterator[tuple[dict[str, int], str]]:
    """All meshes of so many ranks, and why each cannot be ("" if it can)."""
    for lengths in _products(request.workers, len(AXES)):
        mesh = dict(zip(AXES, lengths, strict=True))
        if any(request.fixed.get(axis, mesh[axis]) != mesh[axis] for axis in AXES):
            continue
        replicas = mesh["dp"] * mesh["ep"]
        if request.batch % replicas:
            yield mesh, f"a batch of {request.batch} has no equal parts for {replicas} replicas"
        else:
            yield mesh, request.problem(_any(request, mesh, request.options))


def _any(request: Request, mesh: Mapping[str, int], options: Parallelism) -> Setting:
    """With micro-batches of any size, as no rule asks for it; for a schedule file, as many as it
    has."""
    share, fits = request.batch // (mesh["dp"] * mesh["ep"]), recipe_of(options.schedule).fits
    size = share // fits[1] if fits and share % fits[1] == 0 else 1
    return Setting(mesh, request.batch, size, options, request.program)


def _products(number: int, factors: int) -> Iterator[tuple[int, ...]]:
    if factors == 1:
        yield (number,)
        return
    for first in divisors(number):
        for others in _products(number // first, factors - 1):
            yield first, *others


class Family(NamedTuple):
    """Settings that differ in ZeRO's stage alone, so that their pipelines compute the same."""

    first: Setting
    stages: list[int]
    """Of ZeRO."""

    def members(self, layers_per_stage: tuple[int, ...]) -> Iterator[Setting]:
        """With each stage of ZeRO, and the pipeline cut so."""
        for zero in self.stages:
            options = replace(self.first.options, zero=zero, layers_per_stage=layers_per_stage)
            yield replace(self.first, options=options)


def settings(request: Request, mesh: Mapping[str, int]) -> Iterator[Setting]:
    """All settings of a mesh that the rules allow, with equal stages and nothing recomputed unless
    the user has chosen that."""
    for family in families(request, mesh):
        yield from family.members(request.options.layers_per_stage)


def families(request: Request, mesh: Mapping[str, int]) -> Iterator[Family]:
    """The same by what they have in common."""
    share = request.batch // (mesh["dp"] * mesh["ep"])
    count = request.fixed.get("accumulate")
    sizes = [
        size
        for size in request.tried("micro_batch", divisors(share))
        if share % size == 0 and count in (None, share // size)
    ]
    shards = mesh["dp"] * mesh["ep"] * mesh["cp"] > 1
    stages = request.tried("zero", [0, 1, 2, 3] if shards else [0])
    for options in _options(request, mesh):
        every = [_any(request, mesh, replace(options, zero=zero)) for zero in stages]
        allowed = [one for one in every if not request.problem(one)]
        zeros = [one.options.zero for one in allowed]
        for size in sizes if allowed else ():
            if _made_for(options.schedule, mesh["pp"], share // size):
                yield Family(replace(allowed[0], micro_batch=size), zeros)


def _made_for(schedule: str, ranks: int, micro_batches: int) -> bool:
    """Whether a schedule is tried for so many."""
    if schedule in ("zb-1p", "zb-2p"):
        return ranks * micro_batches <= SEARCHED_ACTIONS
    return not fit_problem(schedule, micro_batches=micro_batches)


def _options(request: Request, mesh: Mapping[str, int]) -> Iterator[Parallelism]:
    """Without ZeRO's stage."""
    for sequence, (schedule, chunks) in product(
        request.tried("sequence", [False, True] if mesh["tp"] > 1 else [False]),
        list(_schedules(request, mesh["pp"])),
    ):
        yield replace(request.options, sequence=sequence, schedule=schedule, chunks=chunks)


def _schedules(request: Request, ranks: int) -> Iterator[tuple[str, int]]:
    for name in request.tried("schedule", list(SCHEDULES) if ranks > 1 else ["1f1b"]):
        least, most = recipe_of(name).chunks
        for chunks in request.tried("chunks", [int(least)] if least == most else CHUNKS):
            yield name, chunks


class Bounds:
    """What settings of one request take at least, and about how long they take: without what ZeRO
    and messages of the pipeline add, so the same for all of a family.

    A block's costs depend on few axes of the mesh, and stages also on where they are cut, so each
    is computed once for many settings.
    """

    def __init__(self, request: Request, fabric: Fabric) -> None:
        self._request, self._fabric = request, fabric
        self._parts: dict[Any, Seconds] = {}
        self._sums: dict[Any, Sums] = {}
        self._cuts: dict[Any, dict[tuple[int, ...], Costs]] = {}

    def costs(self, setting: Setting) -> ModelCosts:
        """The costs of a setting."""
        request = self._request
        return ModelCosts(
            request.model, request.cluster, setting, fabric=self._fabric, known=self._parts
        )

    def expected(self, setting: Setting) -> tuple[float, float]:
        """Seconds of the pipeline: with equal stages, about; and at least, wherever it is cut."""
        shape = shape_of(setting)
        _, p, m, chunks = shape
        whole = [sums[-1] for sums in self._model(setting)]
        parts = [seconds / (p * chunks) for seconds in whole]
        found = bubble(shape, *parts) if p > 1 else None
        idle = found.idle if found else (p - 1) * sum(parts) / 2
        return m * chunks * sum(parts) + idle, least_of_any_cut(shape, *whole)

    def cuts(self, setting: Setting) -> Iterator[tuple[tuple[int, ...], float]]:
        """(layers_per_stage, seconds at least): as the setting has them, and balanced if these are
        others."""
        key = self._key(setting), setting.stages
        if key not in self._cuts:
            self._cuts[key] = self._cut(setting)
        shape = shape_of(setting)
        for sizes, costs in self._cuts[key].items():
            yield sizes, least_seconds(shape, costs) * (1 - 1e-9)  # sums are rounded

    def of_step(self, costs: ModelCosts) -> float:
        """Seconds of a whole step at least, with free messages in its pipeline."""
        forward, inputs, weights, *_ = zip(*costs.stages, strict=True)
        pipeline = least_seconds(shape_of(costs.setting), Costs(forward, inputs, weights))
        return (pipeline + least_besides(costs)) * (1 - 1e-9)

    def _cut(self, setting: Setting) -> dict[tuple[int, ...], Costs]:
        blocks, sums = len(self._request.model.blocks), self._model(setting)
        own = setting.options.layers_per_stage
        sizes = [(own, [len(stage) for stage in setting.blocks_of(blocks)])]
        if setting.stages > 1 and not own:
            whole = [sum(each) for each in zip(*sums, strict=True)]
            times = [after - before for before, after in pairwise(whole)]
            even = balanced(times, setting.stages)
            if even != tuple(sizes[0][1]):
                sizes.append((even, list(even)))
        found = {}
        for layers_per_stage, each in sizes:
            ends = list(accumulate(each, initial=0))
            found[layers_per_stage] = Costs(
                *([part[b] - part[a] for a, b in pairwise(ends)] for part in sums)
            )
        return found

    def _key(self, setting: Setting) -> tuple[Any, ...]:
        return *setting.parts_key, crowding(setting, self._request.cluster)

    def _model(self, setting: Setting) -> Sums:
        """Forward, backward to inputs and to weights of one micro-batch."""
        key = self._key(setting)
        if key not in self._sums:
            costs = self.costs(setting)
            blocks = list(costs.blocks)
            blocks[0] += costs.embedding
            blocks[-1] += costs.head
            forward, inputs, weights, *_ = zip(*blocks, strict=True)
            self._sums[key] = tuple(
                list(accumulate(part, initial=0.0)) for part in (forward, inputs, weights)
            )
        return self._sums[key]


def shape_of(setting: Setting) -> Shape:
    """What formulas need to know of a setting's schedule."""
    options = setting.options
    return Shape(options.schedule, setting.mesh["pp"], setting.micro_batches, options.chunks)
