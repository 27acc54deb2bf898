"""The schedules: pure functions from (ranks, micro-batches, chunks) to what each rank computes.

In all of them every stage runs its backward passes in the order of the micro-batches, so
gradients are summed in one order: the schedule does not change the bits.

Each function gives the actions of one rank; `make_schedule` puts the ranks together.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from ringlet.runtime.pipeline.actions import Action, PipelineSchedule

Item = TypeVar("Item")


def gpipe(rank: int, ranks: int, micro_batches: int, chunks: int) -> list[Action]:
    """All forwards, then all backwards.

    Huang et al., "GPipe: efficient training of giant neural networks using pipeline
    parallelism", 2019. The paper runs the backwards in reverse order; the same order, as here,
    takes as long.
    """
    return _alternate(*_passes(rank, micro_batches, "B"), warm_up=micro_batches)


def one_forward_one_backward(
    rank: int, ranks: int, micro_batches: int, chunks: int
) -> list[Action]:
    """Forwards until the first gradient is back, then one forward and one backward in turn.

    PipeDream-flush: Narayanan et al., "Memory-efficient pipeline-parallel DNN training", 2021.
    As fast as GPipe, but a rank holds the activations of at most ranks - rank micro-batches.
    """
    return _alternate(*_passes(rank, micro_batches, "B"), warm_up=ranks - 1 - rank)


def interleaved(rank: int, ranks: int, micro_batches: int, chunks: int) -> list[Action]:
    """1F1B with several chunks of layers on each rank, which makes the bubble smaller.

    Narayanan et al., "Efficient large-scale language model training on GPU clusters using
    Megatron-LM", 2021, section 2.2. Micro-batches go through all chunks in groups of `ranks`. The
    paper requires whole groups. Here groups are of nearly equal size, and smaller than `ranks`
    only if there are fewer micro-batches; the schedule is made for full groups, and the missing
    micro-batches are left out. The rest stays executable, since no micro-batch needs another.
    """
    count = max(1, micro_batches // ranks)
    ends = [micro_batches * group // count for group in range(count + 1)]
    size = max(ranks, -(-micro_batches // count))
    stages = range(rank, ranks * chunks, ranks)

    def passes(kind: str, stages: range) -> list[Action | None]:
        return [
            Action(kind, stage, first + place) if first + place < end else None
            for first, end in pairwise(ends)
            for stage in stages
            for place in range(size)
        ]

    warm_up = 2 * (ranks - 1 - rank) + (chunks - 1) * size
    actions = _alternate(passes("F", stages), passes("B", stages[::-1]), warm_up)
    return [action for action in actions if action is not None]


def zero_bubble(rank: int, ranks: int, micro_batches: int, chunks: int) -> list[Action]:
    """1F1B with each backward in two: gradients of inputs at once, those of weights later.

    ZB-H1: Qi et al., "Zero bubble pipeline parallelism", 2024, section 2.1. The stage before
    waits only for the inputs' gradients. Rank r runs its weights' part r micro-batches behind, so
    every rank holds the activations of `ranks` micro-batches, no more than rank 0 of 1F1B, and
    has work left to fill the wait at the end.
    """
    actions: list[Action] = []
    waiting: list[Action] = []
    for action in _alternate(*_passes(rank, micro_batches, "I"), warm_up=ranks - 1 - rank):
        actions.append(action)
        if action.kind == "I":
            waiting.append(action._replace(kind="W"))
            if len(waiting) > rank:
                actions.append(waiting.pop(0))
    return actions + waiting


SCHEDULES: dict[str, Callable[[int, int, int, int], list[Action]]] = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zero-bubble": zero_bubble,
}
"""(rank, ranks, micro_batches, chunks) -> what that rank computes."""

INTERLEAVED = ("interleaved",)
"""The schedules that take several chunks on each rank; the others take one."""


def make_schedule(name: str, ranks: int, micro_batches: int, chunks: int = 1) -> PipelineSchedule:
    """The schedule of this name: "gpipe", "1f1b", "interleaved" (chunks >= 2) or "zero-bubble".

    Takes any number of micro-batches, even fewer than ranks. Raises ValueError, saying what would
    fit, for arguments that do not suit the schedule.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; there are {', '.join(SCHEDULES)}")
    for what, number in (("ranks", ranks), ("micro_batches", micro_batches), ("chunks", chunks)):
        if number < 1:
            raise ValueError(f"{what} is {number}; it must be at least 1")
    if name in INTERLEAVED and chunks == 1:
        raise ValueError(f"{name} needs at least 2 chunks on each rank; with 1 there is 1f1b")
    if name not in INTERLEAVED and chunks > 1:
        fits = ", ".join(INTERLEAVED)
        raise ValueError(f"{name} has 1 chunk on each rank, not {chunks}; for several: {fits}")
    actions = SCHEDULES[name]
    compute = tuple(tuple(actions(rank, ranks, micro_batches, chunks)) for rank in range(ranks))
    return PipelineSchedule(name, ranks, chunks, micro_batches, compute)


def _passes(stage: int, micro_batches: int, backward: str) -> tuple[list[Action], list[Action]]:
    numbers = range(micro_batches)
    return [Action("F", stage, m) for m in numbers], [Action(backward, stage, m) for m in numbers]


def _alternate(forwards: Sequence[Item], backwards: Sequence[Item], warm_up: int) -> list[Item]:
    """`warm_up` forwards ahead, then one forward and one backward in turn, then the rest."""
    actions = list(forwards[:warm_up])
    for number, backward in enumerate(backwards):
        actions += [*forwards[warm_up + number : warm_up + number + 1], backward]
    return actions
