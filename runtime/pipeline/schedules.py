"""All schedules by name, and `make_schedule`.

In all of them every stage runs its backward passes in the order of the micro-batches, so
gradients are summed in one order: the schedule does not change the bits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.automatic import automatic
from ringlet.runtime.pipeline.costs import UNIT, Costs
from ringlet.runtime.pipeline.one_forward_one_backward import (
    gpipe,
    interleaved,
    one_forward_one_backward,
)
from ringlet.runtime.pipeline.zero_bubble import (
    v_placement,
    zero_bubble,
    zero_bubble_h2,
    zero_bubble_v,
)

Computed: TypeAlias = tuple[tuple[Action, ...], ...]


@dataclass(frozen=True)
class Recipe:
    """How a schedule of one name is made.

    `make` has (ranks, micro-batches, chunks, costs) and returns what each rank computes. `chunks`
    are the least and the most for each rank. With `splits` backwards are in two parts. `placement`
    has (ranks) and returns that of the schedule.
    """

    make: Callable[[int, int, int, Costs], Computed]
    chunks: tuple[int, float] = (1, 1)
    splits: bool = False
    placement: Callable[[int], tuple[int, ...]] = lambda ranks: ()


def _by_rank(
    actions: Callable[[int, int, int, int], list[Action]],
    ranks: int,
    micro_batches: int,
    chunks: int,
    costs: Costs,
) -> Computed:
    return tuple(tuple(actions(rank, ranks, micro_batches, chunks)) for rank in range(ranks))


def _searched(times: int, ranks: int, micro_batches: int, chunks: int, costs: Costs) -> Computed:
    """With the memory of rank 0 of 1F1B, so many times."""
    return automatic(ranks, micro_batches, costs, times * ranks).compute


SCHEDULES: dict[str, Recipe] = {
    "gpipe": Recipe(partial(_by_rank, gpipe)),
    "1f1b": Recipe(partial(_by_rank, one_forward_one_backward)),
    "interleaved": Recipe(partial(_by_rank, interleaved), (2, float("inf"))),
    "zero-bubble": Recipe(partial(_by_rank, zero_bubble), splits=True),
    "zb-h2": Recipe(partial(_by_rank, zero_bubble_h2), splits=True),
    "zb-v": Recipe(partial(_by_rank, zero_bubble_v), (2, 2), True, v_placement),
    "zb-1p": Recipe(partial(_searched, 1), splits=True),
    "zb-2p": Recipe(partial(_searched, 2), splits=True),
}


def recipe_of(name: str) -> Recipe:
    """How the schedule of this name is made; raises ValueError if there is none."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; there are {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def placement_of(name: str, ranks: int, chunks: int) -> tuple[int, ...]:
    """The rank of every stage."""
    return recipe_of(name).placement(ranks) or (*range(ranks),) * chunks


def make_schedule(
    name: str, ranks: int, micro_batches: int, chunks: int = 0, costs: Costs = UNIT
) -> PipelineSchedule:
    """The schedule of this name, one of SCHEDULES; chunks of 0: as few as it needs.

    Takes any number of micro-batches, even fewer than ranks. `costs` matter to those that are
    searched for, zb-1p and zb-2p. Raises ValueError, saying what would fit, for arguments that do
    not suit the schedule.
    """
    recipe = recipe_of(name)
    chunks = chunks or recipe.chunks[0]
    for what, number in (("ranks", ranks), ("micro_batches", micro_batches), ("chunks", chunks)):
        if number < 1:
            raise ValueError(f"{what} is {number}; it must be at least 1")
    if problem := chunks_problem(name, chunks):
        raise ValueError(problem)
    compute = recipe.make(ranks, micro_batches, chunks, costs)
    return PipelineSchedule(name, ranks, chunks, micro_batches, compute, recipe.placement(ranks))


def make_forward(name: str, ranks: int, micro_batches: int, chunks: int = 0) -> PipelineSchedule:
    """Only forwards, for any number of micro-batches, with the stages where this schedule has them:
    all micro-batches go through a rank's first stage, then all through its next one."""
    recipe = recipe_of(name)
    placement = recipe.placement(ranks)
    empty = PipelineSchedule(
        f"{name}, forward", ranks, chunks or recipe.chunks[0], micro_batches, (), placement
    )
    compute = tuple(
        tuple(Action("F", s, m) for s in empty.stages_of(rank) for m in range(micro_batches))
        for rank in range(ranks)
    )
    return replace(empty, compute=compute)


def chunks_problem(name: str, chunks: int) -> str:
    """Why the schedule cannot have so many chunks, with what would fit; "" if it can."""
    least, most = recipe_of(name).chunks
    if least <= chunks <= most:
        return ""
    if least == most == 1:
        several = [name for name, recipe in SCHEDULES.items() if recipe.chunks[1] >= chunks]
        return f"{name} has 1 chunk on each rank, not {chunks}; for several: {', '.join(several)}"
    needed = f"exactly {least}" if least == most else f"at least {least}"
    return f"{name} needs {needed} chunks on each rank, not {chunks}"
