"""All schedules by name, and `make_schedule`.

In all of them every stage runs its backward passes in the order of the micro-batches, so
gradients are summed in one order: the schedule does not change the bits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TypeAlias

from ringlet.comm.schedules.svg import counted
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.automatic import automatic
from ringlet.runtime.pipeline.costs import UNIT, Costs
from ringlet.runtime.pipeline.one_forward_one_backward import (
    gpipe,
    interleaved,
    one_forward_one_backward,
)
from ringlet.runtime.pipeline.schedule_file import load_schedule, read_schedule
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
    has (ranks) and returns that of the schedule. `fits` are the only numbers of ranks and of
    micro-batches, if there are such.
    """

    make: Callable[[int, int, int, Costs], Computed]
    chunks: tuple[int, float] = (1, 1)
    splits: bool = False
    placement: Callable[[int], tuple[int, ...]] = lambda ranks: ()
    fits: tuple[int, int] | None = None


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


def named(schedule: str) -> str:
    """What is given as a schedule, with the text of a file (NAME.csv) in place of its path. Raises
    ScheduleFileError, a ValueError."""
    return load_schedule(schedule) if schedule.lower().endswith(".csv") else schedule


def title_of(schedule: str) -> str:
    """For messages: the schedule's name, or that it is from a file."""
    return "the schedule file" if "," in schedule else schedule


def recipe_of(name: str) -> Recipe:
    """How the schedule of this name, or in this text of a file, is made; raises ValueError if there
    is none."""
    if "," in name:
        read = read_schedule(name)
        return Recipe(
            lambda *_: read.compute, (read.chunks,) * 2, read.splits, lambda ranks: read.placement,
            (read.ranks, read.micro_batches),
        )  # fmt: skip
    if name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise ValueError(f"unknown schedule {name!r}; there are {known}, and files NAME.csv")
    return SCHEDULES[name]


def placement_of(name: str, ranks: int, chunks: int) -> tuple[int, ...]:
    """The rank of every stage."""
    return recipe_of(name).placement(ranks) or (*range(ranks),) * chunks


def make_schedule(
    name: str, ranks: int, micro_batches: int, chunks: int = 0, costs: Costs = UNIT
) -> PipelineSchedule:
    """The schedule of this name, one of SCHEDULES, or in this file NAME.csv or text of one.

    Chunks of 0: as few as it needs. Takes any number of micro-batches, even fewer than ranks; only
    a file's are fixed. `costs` matter to those that are searched for, zb-1p and zb-2p. Raises
    ValueError, saying what would fit, for arguments that do not suit the schedule.
    """
    name = named(name)
    recipe = recipe_of(name)
    chunks = chunks or recipe.chunks[0]
    for what, number in (("ranks", ranks), ("micro_batches", micro_batches), ("chunks", chunks)):
        if number < 1:
            raise ValueError(f"{what} is {number}; it must be at least 1")
    if problem := chunks_problem(name, chunks) or fit_problem(name, ranks, micro_batches):
        raise ValueError(problem)
    if recipe.fits:
        return read_schedule(name)
    compute = recipe.make(ranks, micro_batches, chunks, costs)
    return PipelineSchedule(name, ranks, chunks, micro_batches, compute, recipe.placement(ranks))


known_schedule = lru_cache(maxsize=32)(make_schedule)
"""`make_schedule`, which remembers the last ones."""


def make_forward(name: str, ranks: int, micro_batches: int, chunks: int = 0) -> PipelineSchedule:
    """Only forwards, for any number of micro-batches, with the stages where this schedule has them:
    all micro-batches go through a rank's first stage, then all through its next one."""
    recipe = recipe_of(name)
    placement = recipe.placement(ranks)
    empty = PipelineSchedule(
        f"{title_of(name)}, forward",
        ranks,
        chunks or recipe.chunks[0],
        micro_batches,
        (),
        placement,
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
    title = title_of(name)
    if least == most == 1:
        several = [name for name, recipe in SCHEDULES.items() if recipe.chunks[1] >= chunks]
        return f"{title} has 1 chunk on each rank, not {chunks}; for several: {', '.join(several)}"
    needed = f"exactly {least}" if least == most else f"at least {least}"
    return f"{title} needs {needed} chunks on each rank, not {chunks}"


def fit_problem(name: str, ranks: int = 0, micro_batches: int = 0) -> str:
    """Why a schedule file is not for so many ranks or micro-batches (0: whatever it says); "" if it
    is, or the schedule is not from a file."""
    fits = recipe_of(name).fits or (ranks, micro_batches)
    if ranks in (0, fits[0]) and micro_batches in (0, fits[1]):
        return ""
    rows, numbers = counted(fits[0], "row"), counted(fits[1], "micro-batch", "es")
    return f"the schedule file has {rows}, one for each rank, and {numbers}"
