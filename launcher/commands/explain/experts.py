"""`ringlet explain experts`: positions on their way to experts, chosen by a real router."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from ringlet.comm.signature import size_text
from ringlet.launcher.commands.explain.chart import Box, Chart, Row, Section, ShowOptions
from ringlet.launcher.commands.explain.subject import (
    Subject,
    facts_of,
    options_for,
    rehearse,
    rehearsed,
)
from ringlet.launcher.commands.options import with_options
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.expert.expert_parallel import Dispatcher
from ringlet.runtime.training.fit import mesh_shape
from ringlet.runtime.training.rehearsal import Event, StandIns

Given = options_for("top_k", "capacity_factor", "data", "seed")
DROPPED = "dropped"


class Enough(Exception):
    """What is to be shown has happened."""


class Counted(StandIns):
    """A group in which it is known how many rows each rank has for each expert."""

    def __init__(self, rank: int, counts: Sequence[Array]) -> None:
        super().__init__(rank, range(len(counts)), lambda event, x: None)
        self._counts = counts

    def everyone(self, x: Array) -> Sequence[Array]:
        return self._counts


@with_options(subject=Subject, show=ShowOptions, given=Given)
def experts(*, subject: Subject, show: ShowOptions, given: dict[str, Any]) -> None:
    """Show how positions travel to experts on other ranks.

    In the first block of a model that is not trained yet: the rows that each rank sends to each
    expert, what its capacity drops, and the slots and bytes of the all-to-all.
    """
    config, workers = rehearsed(subject, Given, given, "ep")
    shape = mesh_shape(config, workers)
    ranks, here = shape["ep"], config.experts // shape["ep"]
    counts, chosen, width = list[Array](), 0, config.n_embd
    for rank in range(ranks):
        first = rank * shape["cp"] * shape["tp"]  # which vary faster
        made = rehearse(config, workers, first)
        seen = list[Array]()
        made.observers.append(partial(_see, seen))
        with suppress(Enough):
            made.run(update=False)
        counts.append(seen[0])
        chosen = len(made.samples[0]) * config.block_size // shape["cp"] * config.top_k
    every = [Dispatcher.of(Counted(rank, counts), own) for rank, own in enumerate(counts)]
    slots, sending, receiving = every[0].slots, [], []
    for rank, own in enumerate(counts):
        parts = [(f"rank {n // here}", f"e{n}", int(count)) for n, count in enumerate(own)]
        lost = chosen - int(own.sum())
        row = _boxes([*parts, (DROPPED, "lost", lost)])
        sending.append(Row(f"rank {rank}", row, f"{own.sum()} rows, {lost} dropped"))
    for number, own in enumerate(np.stack(counts).T):
        parts = [(f"rank {rank}", f"r{rank}", int(count)) for rank, count in enumerate(own)]
        empty = slots * ranks - int(own.sum())
        row = _boxes([*parts, ("", "empty", empty)])
        name, note = f"expert {number} on rank {number // here}", f"{own.sum()} rows, {empty} empty"
        receiving.append(Row(name, row, note))
    nbytes = 4 * config.experts * slots * width * (ranks - 1) // ranks
    capacity = f"capacity {config.capacity_factor:g}" if config.capacity_factor else "no capacity"
    facts = [
        *facts_of(config, workers),
        f"{config.experts} experts",
        f"top {config.top_k}",
        capacity,
    ]
    note = (
        f"Every rank sends each expert {slots} slots, as many as any rank has rows for one: "
        f"{size_text(nbytes)} to others in an all-to-all, and as much back; in backward again. "
        "The colour of a sent row is its expert's rank, of a received one its sender."
    )
    show.show(
        Chart(
            "mixture of experts: the first block",
            facts,
            [*(f"rank {rank}" for rank in range(ranks)), DROPPED],
            [
                Section("rows that each rank sends, by expert", sending, "{:g}".format),
                Section("slots that each expert receives, by rank", receiving, "{:g}".format),
            ],
            [note],
        )
    )


def _see(seen: list[Array], event: Event, x: Array | None) -> None:
    """Keep how many rows a rank has for each expert."""
    if event.name == "rows for each expert" and x is not None:
        seen.append(x.copy())
        raise Enough


def _boxes(parts: Sequence[tuple[str, str, int]]) -> list[Box]:
    """Side by side, as long as they are many."""
    found, start = [], 0
    for kind, label, count in parts:
        found.append(Box(start, start + count, kind, f"{label}: {count}"))
        start += count
    return found
