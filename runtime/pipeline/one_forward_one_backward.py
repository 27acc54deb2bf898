"""Schedules whose backwards are whole: GPipe, 1F1B, and 1F1B with interleaved chunks.

Each function gives the actions of one rank.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from ringlet.runtime.pipeline.actions import Action

Item = TypeVar("Item")


def gpipe(rank: int, ranks: int, micro_batches: int, chunks: int) -> list[Action]:
    """All forwards, then all backwards.

    Huang et al., "GPipe: efficient training of giant neural networks using pipeline
    parallelism", 2019. The paper runs the backwards in reverse order; the same order, as here,
    takes as long.
    """
    return alternate(*passes_of(rank, micro_batches, "B"), warm_up=micro_batches)


def one_forward_one_backward(
    rank: int, ranks: int, micro_batches: int, chunks: int
) -> list[Action]:
    """Forwards until the first gradient is back, then one forward and one backward in turn.

    PipeDream-flush: Narayanan et al., "Memory-efficient pipeline-parallel DNN training", 2021.
    As fast as GPipe, but a rank holds the activations of at most ranks - rank micro-batches.
    """
    return alternate(*passes_of(rank, micro_batches, "B"), warm_up=ranks - 1 - rank)


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
    actions = alternate(passes("F", stages), passes("B", stages[::-1]), warm_up)
    return [action for action in actions if action is not None]


def passes_of(stage: int, micro_batches: int, backward: str) -> tuple[list[Action], list[Action]]:
    """All forwards of a stage, and all backwards of this kind."""
    numbers = range(micro_batches)
    return [Action("F", stage, m) for m in numbers], [Action(backward, stage, m) for m in numbers]


def alternate(forwards: Sequence[Item], backwards: Sequence[Item], warm_up: int) -> list[Item]:
    """`warm_up` forwards ahead, then one forward and one backward in turn, then the rest."""
    actions = list(forwards[:warm_up])
    for number, backward in enumerate(backwards):
        actions += [*forwards[warm_up + number : warm_up + number + 1], backward]
    return actions
