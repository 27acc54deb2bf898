"""Run a schedule: the fourth reader. It moves real bytes, and yields where it has to wait.

What depends only on the schedule and on the arrays' sizes is a *plan*, made once and kept: on a
few bytes the Python around a message takes longer than the message.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from ringlet.comm.calls.channel import Link
from ringlet.comm.calls.operation import Departure, Program
from ringlet.comm.schedules.algorithms import slots_of, steps_of
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Send, Step, segmented
from ringlet.comm.shared.combine import ignoring
from ringlet.comm.sockets.endpoint import ZERO_COPY_BYTES
from ringlet.comm.sockets.wire import Array

Combine: TypeAlias = Callable[..., Any]
"""A NumPy ufunc of two arguments: combine(a, b, out=a)."""

KEPT_SEGMENTS = 16
"""Plans for longer arrays are not kept: beside the work they cost nothing."""


class Piece(NamedTuple):
    """Where a segment of a slot lies: in which of the arrays, and which elements of it."""

    array: int
    start: int
    stop: int


class Move(NamedTuple):
    """A step on one piece; `source` is Copy's. What is received and sent on at once, in the very
    next steps, goes `onward` to these peers."""

    step: Step
    piece: int
    source: int = -1
    onward: tuple[int, ...] = ()


class Plan(NamedTuple):
    """One rank's steps, cut into segments."""

    pieces: tuple[Piece, ...]
    moves: tuple[Move, ...]


def make_plan(
    operation: str,
    algorithm: str,
    rank: int,
    size: int,
    root: int,
    per_host: int | None,
    sizes: tuple[int, ...],
    segment: int,
) -> Plan:
    """The algorithm on arrays of these sizes, each of which is an equal share of the slots; sizes
    and segments are in elements."""
    steps = steps_of(operation, rank, size, root, algorithm, per_host)
    count = slots_of(operation, size, algorithm) // len(sizes)
    slots = [
        _cut(number, start, stop, segment)
        for number, elements in enumerate(sizes)
        for start, stop in pairwise(elements * part // count for part in range(count + 1))
    ]
    return planned(steps, slots)


kept_plan = lru_cache(maxsize=1024)(make_plan)
"""The same, made once; see KEPT_SEGMENTS."""


def _cut(array: int, start: int, stop: int, segment: int) -> list[Piece]:
    """A slot's segments; at least one, even if it is empty."""
    starts = range(start, max(start + 1, stop), segment)
    return [Piece(array, at, min(at + segment, stop)) for at in starts]


def planned(steps: Sequence[Step], slots: Sequence[Sequence[Piece]]) -> Plan:
    """The steps on slots that are cut into these pieces."""
    used = {step.slot for step in steps} | {s.source for s in steps if isinstance(s, Copy)}
    first, pieces = dict[int, int](), list[Piece]()
    for slot in sorted(used):
        first[slot] = len(pieces)
        pieces += slots[slot]
    moves = list[Move]()
    for step, number in segmented(steps, lambda slot: len(slots[slot])):
        piece, last = first[step.slot] + number, moves[-1] if moves else None
        if isinstance(step, Copy):
            moves.append(Move(step, piece, first[step.source] + number))
        elif (
            isinstance(step, Send)
            and last is not None
            and last.piece == piece
            and isinstance(last.step, Receive | Reduce)
        ):
            moves[-1] = last._replace(onward=(*last.onward, step.peer))
        else:
            moves.append(Move(step, piece))
    return Plan(tuple(pieces), tuple(moves))


def run(
    link: Link, plan: Plan, arrays: Sequence[Array | None], combine: Combine | None = None
) -> Program:
    """Take one rank's steps on its memory: contiguous 1-D arrays (None: never used).

    When it returns, every array may be written again: nothing on its way refers to it.
    """
    used = cast("Sequence[Array]", arrays)
    pieces = [used[number][start:stop] for number, start, stop in plan.pieces]
    flying: dict[int, list[Departure]] = {}
    for step, place, source, onward in plan.moves:
        piece = pieces[place]
        if isinstance(step, Send):
            departure = link.send(step.peer, piece)
            if departure is not None:
                flying.setdefault(place, []).append(departure)
            continue
        if isinstance(step, Copy):
            piece[...] = pieces[source]
            continue
        message = yield from link.receive(step.peer, piece)
        if place in flying:
            # An earlier send of this very memory may still be queued.
            yield from departed(flying.pop(place))
        arrived = np.frombuffer(message.payload, piece.dtype)
        frame, checksum = None, None
        if isinstance(step, Receive):
            piece[...] = arrived
            # It goes on as it has come, in the same memory if it is long.
            checksum = message.header.checksum
            frame = message.frame if piece.nbytes >= ZERO_COPY_BYTES else None
        elif combine is not None:
            with ignoring():
                operands = (arrived, piece) if step.peer_first else (piece, arrived)
                combine(*operands, out=piece)
        for peer in onward:
            departure = link.send(peer, piece, frame, checksum)
            if departure is not None:
                flying.setdefault(place, []).append(departure)
    for departures in flying.values():
        yield from departed(departures)


def departed(departures: Iterable[Departure]) -> Program:
    """Wait until ZeroMQ has let go of all these payloads."""
    for departure in departures:
        if not departure.tracker.done:
            yield departure
