"""The critical path of a step: what it could not have been shorter without.

From the end of the rank that ends last, back in time: where a rank waited for another one that came
late, the path goes on there (as in Böhme et al., "Scalable critical-path based performance
analysis", 2012).
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringlet.runtime.tracing.pieces import WAITING, Piece


class Segment(NamedTuple):
    """Seconds of the critical path that a rank spent on something."""

    what: str
    rank: int
    seconds: float


def critical_path(rows: Mapping[int, Sequence[Piece]]) -> list[Segment]:
    """The path through a step of all ranks, from its beginning to its end."""
    rank = max(rows, key=lambda each: rows[each][-1].end)
    now, found = rows[rank][-1].end, list[Segment]()
    asked = {rank}  # at this moment: ranks may wait for each other, as far as clocks can tell
    while (place := bisect_left(rows[rank], now, key=lambda piece: piece.start) - 1) >= 0:
        piece = rows[rank][place]
        if piece.what == WAITING and piece.late in rows and piece.late not in asked:
            now, rank = min(now, piece.end), piece.late
            asked.add(rank)
            continue
        found.append(Segment(piece.what, rank, min(now, piece.end) - piece.start))
        now, asked = piece.start, {rank}
    return found[::-1]
