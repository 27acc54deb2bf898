"""Run a schedule: the fourth reader. It moves real bytes, and yields where it has to wait."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ringlet.comm.channel import Link
from ringlet.comm.operation import Departure, Program
from ringlet.comm.schedule import Copy, Receive, Reduce, Send, Step, segmented
from ringlet.comm.wire import SEGMENT_BYTES, Array, segments

Combine: TypeAlias = Callable[..., Any]
"""A NumPy ufunc of two arguments: combine(a, b, out=a)."""


def run(
    link: Link,
    steps: Sequence[Step],
    slots: Sequence[Array | None],
    combine: Combine | None = None,
    segment_bytes: int = SEGMENT_BYTES,
) -> Program:
    """Take one rank's steps on its memory; `slots` are contiguous 1-D arrays (None: never used).

    When it returns, every array may be written again: nothing on its way refers to it.
    """
    pieces = [[] if slot is None else segments(slot, segment_bytes) for slot in slots]
    flying: dict[tuple[int, int], list[Departure]] = {}
    for step, segment in segmented(steps, lambda slot: len(pieces[slot])):
        place = (step.slot, segment)
        piece = pieces[step.slot][segment]
        if isinstance(step, Send):
            departure = link.send(step.peer, piece)
            if departure is not None:
                flying.setdefault(place, []).append(departure)
            continue
        if isinstance(step, Copy):
            piece[...] = pieces[step.source][segment]
            continue
        arrived = yield from link.receive(step.peer, piece)
        # An earlier send of this very memory may still be queued.
        yield from departed(flying.pop(place, ()))
        if isinstance(step, Receive):
            piece[...] = arrived
        elif isinstance(step, Reduce) and combine is not None:
            # An overflow or a NaN in the ranks' data is a result, not a mistake of this rank.
            with np.errstate(over="ignore", invalid="ignore"):
                operands = (arrived, piece) if step.peer_first else (piece, arrived)
                combine(*operands, out=piece)
    for departures in flying.values():
        yield from departed(departures)


def departed(departures: Iterable[Departure]) -> Program:
    """Wait until ZeroMQ has let go of all these payloads."""
    for departure in departures:
        if not departure.tracker.done:
            yield departure
