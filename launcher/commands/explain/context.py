"""`ringlet explain context`: which scores a rank of ring attention computes, and when."""

from dataclasses import dataclass

from ringlet.launcher.commands.explain.chart import Box, Chart, Row, Section, ShowOptions, cells
from ringlet.launcher.commands.options import with_options
from ringlet.launcher.errors import user_errors
from ringlet.launcher.options import option
from ringlet.runtime.context.context_parallel import chunk_pairs, chunks_needed, zigzag

LENGTH = 16
"""Positions of each rank, unless asked for."""


@dataclass(frozen=True)
class ContextOptions:
    """A ring, and the sequence that it shares."""

    ranks: int = option(4, "Ranks along cp.", "-n", "--ranks", least=1, most=256, metavar="N")
    block_size: int | None = option(
        None, "Context length in tokens.", least=1, most=1 << 24, metavar="N",
        shown=f"{LENGTH} for each rank",
    )  # fmt: skip


@with_options(options=ContextOptions, show=ShowOptions)
def context(*, options: ContextOptions, show: ShowOptions) -> None:
    """Show ring attention on a zigzag split.

    Which rank computes which chunk of queries with which chunk of keys, in which step of the ring,
    and whose keys and values are where.
    """
    ranks = options.ranks
    length = options.block_size or LENGTH * ranks
    with user_errors(ValueError):
        positions = [zigzag(length, ranks, rank) for rank in range(ranks)]
    size = length // (2 * ranks)
    chunks = [tuple(int(p[half * size]) // size for half in (0, 1)) for p in positions]
    square = [[Box(keys, keys + 1) for keys in range(2 * ranks)] for _ in range(2 * ranks)]
    for rank in range(ranks):
        for step in range(ranks):
            owner = (rank + step) % ranks
            for queries, keys, diagonal in chunk_pairs(rank, owner):
                row, place = chunks[rank][queries], chunks[owner][keys]
                square[row][place] = Box(place, place + 1, f"rank {rank}", str(step), diagonal)
    owners = {chunk: rank for rank in range(ranks) for chunk in chunks[rank]}
    who = [Row(f"rank {owners[chunk]}, chunk {chunk}", boxes) for chunk, boxes in enumerate(square)]
    numbers = cells(*(("", str(chunk)) for chunk in range(2 * ranks)))
    where = []
    for rank in range(ranks):
        here = [(rank + step) % ranks for step in range(ranks)]
        labels = (", ".join(map(str, chunks[o][: chunks_needed(rank, o)])) for o in here)
        boxes = ((f"rank {owner}", label) for owner, label in zip(here, labels, strict=True))
        where.append(Row(f"rank {rank}", cells(*boxes)))
    steps = cells(*(("", f"step {step}") for step in range(ranks)))
    show.show(
        Chart(
            "ring attention",
            [f"{ranks} ranks", f"{length} positions", f"{2 * ranks} chunks of {size}"],
            [f"rank {rank}" for rank in range(ranks)],
            [
                Section(
                    "who computes what: the step, by queries (down) and keys (across)",
                    [Row("keys, chunk", numbers), *who],
                ),
                Section("whose keys and values are where: chunks", [Row("", steps), *where]),
            ],
            [
                "A cell on the diagonal is half masked (in the terminal \\): every rank has two "
                "cells' worth of work in each step. A late chunk goes down to rank 0 and no "
                "further.",
            ],
        )
    )
