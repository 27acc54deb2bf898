"""What a training step does beside its pipeline: gradients are summed, parameters updated.

Neither depends on the schedule, so a search knows it before a schedule is made.
"""

from collections.abc import Sequence

from ringlet.runtime.compression.automatic import AUTO
from ringlet.runtime.compression.schemes import bytes_sent
from ringlet.runtime.options import Parallelism
from ringlet.runtime.planning.costs import ModelCosts
from ringlet.runtime.planning.fabric import Ranks
from ringlet.runtime.planning.footprint import shards
from ringlet.runtime.planning.operations import update
from ringlet.runtime.planning.setting import FLOAT32, Setting

SAMPLE = 1024
"""Compression is counted on matrices of so many rows and columns."""

Shards = Sequence[tuple[float, float, float]]
"""Of each rank of the pipeline, as `footprint.shards` gives them."""


def compressed(options: Parallelism, ranks: int) -> float:
    """The part of an all-reduce's bytes that travels compressed."""
    if options.compress in ("", AUTO) or ranks == 1:  # what a link makes of auto is not known here
        return 1.0
    size = SAMPLE * SAMPLE
    sent = bytes_sent(options.compress, size, ((0, size, (SAMPLE, SAMPLE)),), ranks)
    return sent / (2 * (ranks - 1) / ranks * FLOAT32.gradient * size)


def groups(setting: Setting) -> tuple[Ranks, Ranks]:
    """The ranks over which gradients are summed: of all but the experts, and of experts."""
    mesh, strides = setting.mesh, setting.strides
    dense = Ranks(mesh["dp"] * mesh["ep"] * mesh["cp"], strides["cp"])
    return dense, Ranks(mesh["dp"] * mesh["cp"], strides["cp"] * mesh["ep"])


def sums(setting: Setting, numbers: Sequence[float]) -> list[tuple[str, Ranks, float]]:
    """The collectives that sum a rank's gradients after its last backward pass; none with ZeRO's
    stages 2 and 3, where each micro-batch's are summed."""
    options, nbytes = setting.options, setting.program.precision.gradient
    if options.zero >= 2:
        return []
    operation = "reduce_scatter" if options.zero else "all_reduce"
    return [
        (operation, group, each * nbytes * compressed(options, group.size))
        for group, each in zip(groups(setting), numbers, strict=False)
        if group.size > 1 and each
    ]


def gathers(setting: Setting, numbers: Sequence[float]) -> list[tuple[str, Ranks, float]]:
    """The collectives that give each rank the parameters that others have updated."""
    nbytes = setting.program.precision.parameter
    return [
        ("all_gather", group, each * nbytes)
        for group, each in zip(groups(setting), numbers, strict=False)
        if setting.options.zero in (1, 2) and group.size > 1 and each
    ]


def finish(costs: ModelCosts, parts: Shards) -> list[tuple[str, float]]:
    """What is done one after the other when all gradients are summed, and the seconds on the
    slowest rank."""
    found = {
        "tied": _tied(costs),
        "norm": costs.fabric.collective("all_reduce", Ranks(costs.setting.ranks, 1), 8.0),
        "update": _update(costs, parts),
        "parameters": _published(costs, parts),
    }
    return [(what, seconds) for what, seconds in found.items() if seconds]


def least_besides(costs: ModelCosts) -> float:
    """Seconds at least of a step beside its pipeline."""
    setting, parts = costs.setting, shards(costs.model, costs.setting)
    seconds = sum(each for _, each in finish(costs, parts))
    if not setting.program.overlap_gradients:
        every = [sums(setting, numbers) for numbers in parts]
        summed = min(sum(costs.fabric.collective(*call) for call in calls) for calls in every)
        seconds += summed / setting.options.local_steps
    return seconds


def _tied(costs: ModelCosts) -> float:
    """Seconds for which the first and the last stage sum the embedding's gradient."""
    setting, model = costs.setting, costs.model
    together = any({0, setting.stages - 1} <= {*own} for own in setting.stages_by_rank)
    if not model.tied or together:
        return 0.0
    words = -(-model.vocabulary // setting.mesh["tp"])
    nbytes = words * model.width * setting.program.precision.gradient
    ends = Ranks(2, setting.strides["pp"] * (setting.mesh["pp"] - 1))
    return costs.fabric.collective("all_reduce", ends, float(nbytes))


def _update(costs: ModelCosts, parts: Shards) -> float:
    """Seconds in which the slowest rank updates its part."""
    setting, program = costs.setting, costs.setting.program
    most = 0.0
    for part in parts:
        own = sum(
            numbers / (group.size if setting.options.zero else 1)
            for group, numbers in zip(groups(setting), part, strict=False)
        )
        most = max(most, costs.compute([update(own, program.precision)]))
    return most + program.update


def _published(costs: ModelCosts, parts: Shards) -> float:
    """Seconds to gather the parameters that ZeRO's ranks have updated. Stage 1 does it over a
    network while the next forward pass goes through all blocks but the first."""
    setting, most = costs.setting, 0.0
    ahead = setting.options.zero == 1 and setting.program.overlap_parameters
    for own, each in zip(setting.stages_by_rank, parts, strict=True):
        blocks = setting.blocks_of(len(costs.model.blocks))
        forward = sum(costs.stages[n].forward * (1 - 1 / len(blocks[n])) for n in own if blocks[n])
        seconds = 0.0
        for call in gathers(setting, each):
            gathered = costs.fabric.collective(*call)
            over_network = call[1].size * call[1].stride > costs.cluster.devices
            hidden = min(gathered, forward) if ahead and over_network else 0.0
            seconds += gathered - hidden * (1 - costs.cluster.slowdown.sums)
            forward -= hidden
        most = max(most, seconds)
    return most
