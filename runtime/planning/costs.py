"""Seconds and FLOPs of a model's parts on a device: each kind of block once, then multiplied."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from itertools import chain, starmap
from typing import Any, NamedTuple, TypeAlias

from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.schedules import placement_of
from ringlet.runtime.planning.cluster import Cluster
from ringlet.runtime.planning.crowding import crowding
from ringlet.runtime.planning.device import Operation
from ringlet.runtime.planning.fabric import Fabric, Ranks
from ringlet.runtime.planning.models import Block, Model, dense_parameters, expert_parameters
from ringlet.runtime.planning.operations import (
    Call,
    Part,
    block_part,
    embedding_part,
    head_part,
)
from ringlet.runtime.planning.setting import Setting

BLOCK_PATHS = ("transformer.h.{}", "model.layers.{}")
"""Where the models of `nn` have their blocks."""

ATTENTIONS = ("attn", "self_attn")
"""Attention in these blocks."""

WHOLE, CORE = "whole", "core"
"""What of a block is computed again in backward: everything, or attention without its products."""


class Seconds(NamedTuple):
    """Of one part of a model, for one micro-batch. A whole backward takes inputs + weights."""

    forward: float = 0.0
    inputs: float = 0.0
    weights: float = 0.0
    exposed: tuple[tuple[str, float], ...] = ()
    """By axis, seconds of the above in which the rank only communicates."""

    carried: tuple[tuple[str, float], ...] = ()
    """By tier, seconds for which a rank's port is busy."""

    def __add__(self, other: "Seconds") -> "Seconds":  # type: ignore[override]
        return Seconds(
            self.forward + other.forward,
            self.inputs + other.inputs,
            self.weights + other.weights,
            merged(self.exposed, other.exposed),
            merged(self.carried, other.carried),
        )

    def times(self, count: float) -> "Seconds":
        """The same so many times."""
        exposed, carried = (
            tuple((name, count * seconds) for name, seconds in parts)
            for parts in (self.exposed, self.carried)
        )
        return Seconds(
            count * self.forward, count * self.inputs, count * self.weights, exposed, carried
        )


Parts: TypeAlias = Iterable[tuple[str, float]]
"""Seconds by name."""


def merged(*parts: Parts) -> tuple[tuple[str, float], ...]:
    """The sums by name."""
    found: dict[str, float] = {}
    for name, seconds in chain(*parts):
        found[name] = found.get(name, 0.0) + seconds
    return tuple(found.items())


def repeated(options: Parallelism, blocks: int) -> tuple[str, ...]:
    """What the options recompute of each of so many blocks: WHOLE, CORE or nothing ("").

    "blocks" are all blocks; a pattern may name some (`transformer.h.1?`), or attention within them
    (`*.attend`). Other patterns recompute too little to count.
    """
    return _repeated(options.recompute, blocks) if options.recompute else ("",) * blocks


@lru_cache(maxsize=64)
def _repeated(patterns: tuple[str, ...], blocks: int) -> tuple[str, ...]:
    plain = {pattern for pattern in patterns if not any(sign in pattern for sign in "*?[")}
    others = [pattern for pattern in patterns if pattern not in plain]

    def named(paths: Iterable[str]) -> bool:
        return any(
            path in plain or any(fnmatchcase(path, pattern) for pattern in others) for path in paths
        )

    found = []
    for number in range(blocks):
        paths = [path.format(number) for path in BLOCK_PATHS]
        cores = [f"{path}.{name}.attend" for path in paths for name in ATTENTIONS]
        whole = "blocks" in plain or named(paths)
        found.append(WHOLE if whole else CORE if named(cores) else "")
    return tuple(found)


def model_flops(model: Model, samples: int, masked: bool = True) -> float:
    """FLOPs of a step for so many samples, forward and backward, without recomputation: all
    products and, if `masked`, also those scores that a causal mask hides, half of them.

    For a GPT: 72 B s l h^2 (1 + s / (6 h) + V / (12 l h)), Narayanan et al. 2021, appendix.
    """
    blocks = sum(block_flops(block, model.context) for block in model.blocks)
    if not masked:
        blocks -= sum(core_flops(b, model.context) / 2 for b in model.blocks if b.causal)
    return 3.0 * samples * (blocks + 2.0 * model.context * model.vocabulary * model.width)


@lru_cache(maxsize=256)
def block_flops(block: Block, context: int) -> float:
    """FLOPs of a block's forward pass for one sample."""
    queries, keys = block.heads * block.head, block.kv_heads * block.head
    attention = 2.0 * block.width * (2 * queries + 2 * keys) + 4.0 * context * queries
    mlp = (6.0 if block.gated else 4.0) * block.width * block.inner * max(block.top_k, 1)
    router = 2.0 * block.width * block.experts
    return context * (block.attentions * attention + mlp + router)


def core_flops(block: Block, context: int) -> float:
    """Of these, attention's without its projections."""
    return 4.0 * context * context * block.heads * block.head * block.attentions


def hardware_flops(model: Model, samples: int, options: Parallelism) -> float:
    """FLOPs with what is computed again."""
    again = 0.0
    for block, what in zip(model.blocks, repeated(options, len(model.blocks)), strict=True):
        if what:
            count = block_flops if what == WHOLE else core_flops
            again += count(block, model.context)
    return model_flops(model, samples) + samples * again


@dataclass
class ModelCosts:
    """What each part and each stage of a model costs for one micro-batch.

    With several workers on a host, computing takes `slowdown.neighbours` longer (crowding.py).
    Settings of one cluster share a `fabric`, which remembers what collectives cost, and those of
    one model, program and number of ranks can share `known`, what its parts cost.
    """

    model: Model
    cluster: Cluster
    setting: Setting
    fabric: Fabric = field(kw_only=True)
    known: dict[Any, Seconds] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        self._factor = crowding(self.setting, self.cluster)
        self._dtype = self.setting.program.precision.dtype

    def group(self, *axes: str) -> Ranks:
        """The ranks along neighbouring axes of the mesh, in the order of AXES."""
        size = math.prod(self.setting.mesh[axis] for axis in axes)
        return Ranks(size, self.setting.strides[axes[-1]])

    def calls(self, calls: Sequence[Call]) -> dict[str, float]:
        """Seconds of collectives, by axis."""
        found: dict[str, float] = {}
        for call in calls:
            if seconds := self.fabric.collective(*self._call(call)):
                found[call.axis] = found.get(call.axis, 0.0) + seconds
        return found

    def _call(self, call: Call) -> tuple[str, Ranks, float]:
        return call.operation, self.group(call.axis), call.nbytes

    def compute(self, operations: Sequence[Operation]) -> float:
        """Seconds of operations one after the other on a device."""
        return self._factor * self.cluster.device.sequence(operations, self._dtype)

    def part(self, part: Part, again: str = "") -> Seconds:
        """Seconds of one part, with what of it is computed again."""
        forward, core = self.compute(part.forward), self.compute(part.core)
        back = self.compute((*part.inputs, *part.weights))
        weights = back * self._share(part)
        inputs = back - weights
        there, home = self.calls(part.forward_calls), self.calls(part.inputs_calls)
        if self.setting.program.overlap_context:
            forward += self._hide(there, "cp", core)
            inputs += self._hide(home, "cp", inputs)
        if self.setting.program.overlap_tensor:
            weights += self._hide(home, "tp", weights)
        forward += sum(there.values())
        repeats = {WHOLE: forward, CORE: core, "": 0.0}[again]
        twice = again == WHOLE
        every = (there.items(), home.items(), there.items() if twice else ())
        inputs += sum(home.values()) + repeats
        calls = part.forward_calls * (2 if twice else 1) + part.inputs_calls
        carried = merged(*(self.fabric.cost(*self._call(call)).carried for call in calls))
        return Seconds(forward, inputs, weights, merged(*every), carried)

    def _hide(self, exposed: dict[str, float], axis: str, behind: float) -> float:
        """Hide what is sent behind computing; returns the seconds by which that takes longer."""
        hidden = min(exposed.get(axis, 0.0), behind)
        if hidden:
            exposed[axis] -= hidden
        return hidden * self.cluster.slowdown.sums

    def _share(self, part: Part) -> float:
        """The weights' part of a backward pass."""
        seconds = self.cluster.device.seconds
        inputs, weights = (
            sum(seconds(one, self._dtype) for one in operations)
            for operations in (part.inputs, part.weights)
        )
        return weights / (inputs + weights) if weights else 0.0

    @cached_property
    def embedding(self) -> Seconds:
        """Of the embedding, which the first stage has."""
        return self._known("embedding", lambda: self.part(embedding_part(self.model, self.setting)))

    @cached_property
    def head(self) -> Seconds:
        """Of the head and the loss, which the last stage has."""
        return self._known("head", lambda: self.part(head_part(self.model, self.setting)))

    @cached_property
    def blocks(self) -> tuple[Seconds, ...]:
        """Of each block."""
        kinds, kind_of = self.model.kinds
        every = [*zip(kind_of, repeated(self.setting.options, len(kind_of)), strict=True)]
        found = {key: self.block(kinds[key[0]], key[1]) for key in set(every)}
        return tuple(found[key] for key in every)

    def block(self, block: Block, again: str) -> Seconds:
        """Of one block, with what of it is computed again."""

        def make() -> Seconds:
            return self.part(block_part(block, self.model, self.setting), again)

        return self._known((block, again), make)

    def _known(self, what: Any, make: Callable[[], Seconds]) -> Seconds:
        """A part's cost, which depends on few axes of the mesh."""
        key = what, *self.setting.parts_key, self._factor
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    @cached_property
    def stages(self) -> tuple[Seconds, ...]:
        """Of each stage of the pipeline."""
        found, known = [], dict[Any, Seconds]()
        stages = self.setting.blocks_of(len(self.model.blocks))
        for number, blocks in enumerate(stages):
            first, last = number == 0, number == len(stages) - 1
            own, waits = self.blocks[blocks.start : blocks.stop], self._waits(number)
            key = first, last, waits, *map(id, own)  # equal blocks are one object
            if key not in known:
                ends = [self.embedding] * first + [self.head] * last
                total = self._with_shards(sum([*_runs(own), *ends], Seconds()), blocks)
                known[key] = total + Seconds(*waits)
            found.append(known[key])
        return tuple(found)

    def _waits(self, stage: int) -> tuple[float, float]:
        """Seconds that a rank waits for its messages, which it receives and sends in forward, and
        in backward."""
        if self.setting.program.overlap_transfers or self.setting.mesh["pp"] == 1:
            return 0.0, 0.0
        ahead = sum(self.transfers[stage]) if stage < self.setting.stages - 1 else 0.0
        return ahead, sum(self.transfers[stage - 1]) if stage else 0.0

    def _with_shards(self, own: Seconds, blocks: range) -> Seconds:
        """ZeRO's stages 2 and 3 send in each pass: gradients, and before both ways parameters."""
        zero, mesh = self.setting.options.zero, self.setting.mesh
        group = self.group("dp", "ep", "cp")
        if zero < 2 or group.size == 1 or not blocks:
            return own
        numbers = [
            dense_parameters(b, mesh["tp"]) + expert_parameters(b, mesh["tp"]) / mesh["ep"]
            for b in self.model.blocks[blocks.start : blocks.stop]
        ]
        precision = self.setting.program.precision
        sends = [[("reduce_scatter", group, n * precision.gradient) for n in numbers], []]
        if zero == 3:
            sends[1] = [("all_gather", group, n * precision.parameter) for n in numbers]
        scattered, gathered = (sum(starmap(self.fabric.collective, part)) for part in sends)
        carried = merged(*(self.fabric.cost(*call).carried for call in sends[0] + 2 * sends[1]))
        there, home = {"dp": gathered}, {"dp": gathered + scattered}
        if self.setting.program.overlap_parameters:
            own += Seconds(self._hide(there, "dp", own.forward * (1 - 1 / len(blocks))))
            hidden = (own.inputs + own.weights) * (1 - 1 / len(blocks))
            own += Seconds(0.0, self._hide(home, "dp", hidden))
        exposed = (("dp", there["dp"] + home["dp"]),)
        return own + Seconds(there["dp"], home["dp"], 0.0, exposed, carried)

    @cached_property
    def _placement(self) -> tuple[int, ...]:
        """The rank of every stage."""
        options = self.setting.options
        return placement_of(options.schedule, self.setting.mesh["pp"], options.chunks)

    def ends(self, border: int) -> tuple[int, int] | None:
        """The ranks of the first replica that have the stages before and after a border; None if
        they are one."""
        stride = self.setting.strides["pp"]
        before, after = (rank * stride for rank in self._placement[border : border + 2])
        return None if before == after else (before, after)

    @cached_property
    def transfers(self) -> list[tuple[float, float]]:
        """By border of stages, (busy, latency) of what passes over it for one micro-batch, either
        way, while the neighbours of the same stage send as well."""
        every = [self.ends(border) for border in range(self.setting.stages - 1)]
        known = {ends: self._transfer(*ends) if ends else (0.0, 0.0) for ends in set(every)}
        return [known[ends] for ends in every]

    def _transfer(self, sender: int, receiver: int) -> tuple[float, float]:
        mesh, program = self.setting.mesh, self.setting.program
        rows = self.setting.micro_batch * self.model.context // mesh["cp"]
        nbytes = float(rows * self.model.width * program.precision.activation)
        sequence = self.setting.options.sequence
        parts = mesh["tp"] if program.scatter or sequence else 1
        at_once = min(self.setting.strides["pp"], self.cluster.devices)
        busy, latency = self.fabric.transfer(sender, receiver, nbytes / parts, at_once)
        if parts > 1 and not sequence:
            latency += self.fabric.collective("all_gather", self.group("tp"), nbytes)
        return busy, latency


def _runs(blocks: Sequence[Seconds]) -> list[Seconds]:
    """Equal neighbours as one, multiplied."""
    found: list[Seconds] = []
    first = 0
    while first < len(blocks):
        last = first
        while last < len(blocks) and blocks[last] is blocks[first]:
            last += 1
        found.append(blocks[first].times(last - first))
        first = last
    return found
