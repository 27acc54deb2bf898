"""All ways to train a model on a cluster that the rules allow, and what each takes at least."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from ringlet.runtime.mesh import AXES, divisors
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.formulas import Shape, bubble
from ringlet.runtime.pipeline.schedules import SCHEDULES, recipe_of
from ringlet.runtime.planning.cluster import Cluster
from ringlet.runtime.planning.costs import ModelCosts, Seconds
from ringlet.runtime.planning.crowding import crowding
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.models import Block, Model
from ringlet.runtime.planning.setting import RINGLET, Program, Setting
from ringlet.runtime.rules import MODEL, MODULE, OPTIONS, RUN, problem

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

    @cached_property
    def _kinds(self) -> list[Block]:
        """The different blocks of the model."""
        return list(dict.fromkeys(self.model.blocks))

    def problem(self, setting: Setting) -> str:
        """Why a setting cannot be; "" if it can."""
        model, mesh = self.model, setting.mesh
        plain = all(b.causal and not b.cross and not b.window for b in self._kinds)
        for block in self._kinds:
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
            one = Setting(mesh, request.batch, 1, request.options, request.program)
            yield mesh, request.problem(one)


def _products(number: int, factors: int) -> Iterator[tuple[int, ...]]:
    if factors == 1:
        yield (number,)
        return
    for first in divisors(number):
        for others in _products(number // first, factors - 1):
            yield first, *others


def settings(request: Request, mesh: Mapping[str, int]) -> Iterator[Setting]:
    """All settings of a mesh that the rules allow, with equal stages and nothing recomputed unless
    the user has chosen that."""
    share = request.batch // (mesh["dp"] * mesh["ep"])
    count = request.fixed.get("accumulate")
    sizes = [
        size
        for size in request.tried("micro_batch", divisors(share))
        if share % size == 0 and count in (None, share // size)
    ]
    for options in _options(request, mesh):
        one = Setting(mesh, request.batch, 1, options, request.program)
        if request.problem(one):  # no rule asks for the size of micro-batches
            continue
        searched = options.schedule in ("zb-1p", "zb-2p")
        for size in sizes:
            if not searched or mesh["pp"] * share // size <= SEARCHED_ACTIONS:
                yield replace(one, micro_batch=size)


def _options(request: Request, mesh: Mapping[str, int]) -> Iterator[Parallelism]:
    shards = mesh["dp"] * mesh["ep"] * mesh["cp"] > 1
    for sequence, zero, (schedule, chunks) in product(
        request.tried("sequence", [False, True] if mesh["tp"] > 1 else [False]),
        request.tried("zero", [0, 1, 2, 3] if shards else [0]),
        list(_schedules(request, mesh["pp"])),
    ):
        yield replace(
            request.options, zero=zero, sequence=sequence, schedule=schedule, chunks=chunks
        )


def _schedules(request: Request, ranks: int) -> Iterator[tuple[str, int]]:
    for name in request.tried("schedule", list(SCHEDULES) if ranks > 1 else ["1f1b"]):
        least, most = recipe_of(name).chunks
        for chunks in request.tried("chunks", [int(least)] if least == most else CHUNKS):
            yield name, chunks


class Bounds:
    """What settings of one request take at least, and about how long they take.

    A block's costs depend on few axes of the mesh, so they are computed once for many settings.
    """

    def __init__(self, request: Request, fabric: Fabric) -> None:
        self._request, self._fabric = request, fabric
        self._known: dict[tuple[Any, ...], Seconds] = {}
        self._parts: dict[Any, Seconds] = {}

    def costs(self, setting: Setting) -> ModelCosts:
        """The costs of a setting."""
        request = self._request
        return ModelCosts(
            request.model, request.cluster, setting, fabric=self._fabric, known=self._parts
        )

    def model(self, setting: Setting) -> Seconds:
        """Of all blocks and ends, for one micro-batch, ZeRO and messages of the pipeline apart."""
        mesh = setting.mesh
        crowded = crowding(setting, self._request.cluster)
        sizes = mesh["tp"], mesh["cp"], mesh["ep"], setting.micro_batch
        key = *sizes, setting.options.sequence, crowded
        if key not in self._known:
            costs = self.costs(setting)
            total = costs.embedding + costs.head
            for block in costs.blocks:
                total += block
            self._known[key] = total
        return self._known[key]

    def least(self, setting: Setting) -> float:
        """Seconds that a pipeline takes at least, wherever its stages are cut.

        The busiest rank has its part of the work. With a stage on each rank and whole backwards,
        rank r has also to wait for one micro-batch to pass the ranks before it, and back again:
        of stages w_s, the largest of w_0 + ... + w_(r-1) + m w_r is least where all are equal, and
        then T / (1 - (1 - 1/m)^p) for a sum of T.
        """
        total, options = self.model(setting), setting.options
        work = total.forward + total.inputs + total.weights
        p, m = setting.mesh["pp"], setting.micro_batches
        if p == 1 or options.chunks > 1 or recipe_of(options.schedule).splits:
            return m * work / p
        return work / (1 - (1 - 1 / m) ** p) * (1 - 1e-9)  # rounding must not raise it

    def estimate(self, setting: Setting) -> float:
        """Seconds of the pipeline with equal stages."""
        p, m, total = setting.mesh["pp"], setting.micro_batches, self.model(setting)
        options = setting.options
        parts = [one / (p * options.chunks) for one in total[:3]]
        busy = m * options.chunks * sum(parts)
        if p == 1:
            return busy
        found = bubble(Shape(options.schedule, p, m, options.chunks), *parts)
        return busy + (found.idle if found else (p - 1) * sum(parts) / 2)
