"""What is wrong with attention in blocks: which pair of a query and a key is missed or counted
twice.

Each key's value is a unit vector, so that a result says how much of every key is in it.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ringlet.comm.arrays import Array
from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import Signature
from ringlet.launcher.lessons.ranks import LessonGroup, on_ranks
from ringlet.launcher.lessons.wrong import (
    Wrong,
    check_array,
    check_tuple,
    first_wrong,
    is_close,
    unchanged,
)
from ringlet.nn import Tensor
from ringlet.nn import functional as F

HINTS = (
    "visible: compare positions with each other: queries[:, None] >= keys[None, :].",
    "attend: scores of masked keys are -inf. The new shift is the larger of the old one and the "
    "row's largest score; exp(old shift - new shift) shrinks what was there: out and total.",
    "A query that has seen nothing has shift -inf, and -inf - -inf is not a number: subtract 0 "
    "where the new shift is still -inf.",
    "zigzag: cut the sequence into 2 * size chunks. A rank with an early chunk, r, takes a late "
    "one, 2 * size - 1 - r.",
    "ring_attention: in step s a rank has the keys of rank (rank + s) % size, if it receives from "
    "rank + 1 and sends to rank - 1. Use positions[owner] in the mask; send before you receive.",
)
RINGS = (1, 2, 3, 4)
ROOT = 2
"""Of the width of queries and keys."""


@first_wrong
def check(answer: Any) -> None:
    """Raise Wrong for the first thing that is wrong with an exercise."""
    check_visible(answer)
    for length, block, scale in ((4, 2, 1.0), (6, 2, 1.0), (6, 3, 40.0), (7, 3, 1000.0)):
        check_attend(answer, length, block, scale)
    for ranks in RINGS:
        for length in (2 * ranks, 4 * ranks):
            check_zigzag(answer, length, ranks)
    for ranks in RINGS:
        check_ring(answer, ranks)


def check_visible(answer: Any) -> None:
    function = answer.visible
    for queries, keys in ([0, 1, 2], [0, 1, 2]), ([4, 5], [0, 5, 9]), ([0], [3, 4]):
        found = function(np.array(queries), np.array(keys))
        what = f"visible for queries {queries} and keys {keys}"
        shape = len(queries), len(keys)
        if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != bool:
            is_array = isinstance(found, np.ndarray)
            given = f"{found.dtype} {found.shape}" if is_array else type(found).__name__
            raise Wrong(f"{what} is {given}; it must be a bool array {shape}")
        for row, query in enumerate(queries):
            for column, key in enumerate(keys):
                if found[row, column] != (key <= query):
                    sees = "sees" if key > query else "does not see"
                    raise Wrong(f"{what}: the query at {query} {sees} the key at {key}")


def _inputs(length: int, scale: float = 1.0) -> tuple[Array, Array, Array]:
    """Queries, keys, and scores of a sequence."""
    q, k = np.random.default_rng(length).standard_normal((2, length, ROOT**2))
    # Later keys have larger scores, so that the largest so far keeps growing.
    q, k = scale * q, k + np.linspace(0, 1, length)[:, None] * np.sign(q[-1])
    return q, k, q @ k.T / ROOT


def check_attend(answer: Any, length: int, block: int, scale: float) -> None:
    """All queries of a sequence, and its keys in blocks. From the last block to the first, early
    queries see no key at first."""
    function = answer.attend
    q, k, scores = _inputs(length, scale)
    positions = np.arange(length)
    starts = range(0, length, block)
    for order, keys in (("first to last", starts), ("last to first", starts[::-1])):
        state = np.zeros((length, length)), np.full(length, -np.inf), np.zeros(length)
        seen = np.zeros((length, length), bool)
        for number, start in enumerate(keys):
            part = slice(start, min(start + block, length))
            mask = positions[:, None] >= positions[part]
            what = (
                f"attend, {length} queries, keys in blocks of {block} from the {order}, block "
                f"{number + 1}"
            )
            given = dict(zip(("out", "shift", "total"), state, strict=True))
            before = state[1].copy()
            values = np.eye(length)[part]
            with np.errstate(all="ignore"), unchanged(what, q=q, mask=mask, **given):
                found = function(*state, q, k[part], values, mask)
            state = _state(check_tuple(found, what, "out", "shift", "total"), length, what)
            seen[:, part] = mask
            _check_state(what, state, before, seen, scores)


def _state(found: tuple[Any, ...], length: int, what: str) -> tuple[Array, Array, Array]:
    shapes = {"out": (length, length), "shift": (length,), "total": (length,)}
    out, shift, total = (
        check_array(array, shape, what, name)
        for array, (name, shape) in zip(found, shapes.items(), strict=True)
    )
    return out, shift, total


def _check_state(
    what: str, state: Sequence[Array], before: Array, seen: Array, scores: Array
) -> None:
    """Compare what the queries know with the keys that they have seen."""
    out, shift, total = state
    for query, (row, sees) in enumerate(zip(out, seen, strict=True)):
        who = f"{what}: query {query}"
        if not (np.isfinite(row).all() and np.isfinite(total[query])):
            if not sees.any():
                raise Wrong(f"{who} has seen no key yet and is not a number: -inf - -inf is none")
            raise Wrong(
                f"{who} is not finite: the largest score is {scores[query][sees].max():.6g}, and "
                "its exponential overflows unless the shift is about as large"
            )
        if not sees.any() and (row.any() or total[query]):
            raise Wrong(f"{who} has seen no key yet, and total is {total[query]:.6g}")
        if not sees.any():
            continue
        largest = float(scores[query][sees].max())
        if np.isnan(shift[query]) or abs(shift[query] - largest) > 100:
            raise Wrong(f"{who}: shift is {shift[query]:.6g}; the largest score is {largest:.6g}")
        with np.errstate(over="ignore"):
            weights, unscaled = (
                np.exp(np.where(sees, scale * scores[query] - shift[query], -np.inf))
                for scale in (1, ROOT)
            )
        if np.allclose(row, unscaled) and not np.allclose(row, weights):
            raise Wrong(f"{who}: the scores are not divided by sqrt(D), which is {ROOT} here")
        wrong = np.nonzero(~np.isclose(row, weights, rtol=1e-6, atol=1e-12))[0]
        if wrong.size:
            raise Wrong(f"{who} {_why(row, weights, wrong, before[query], shift[query])}")
        if not np.isclose(total[query], row.sum(), rtol=1e-6):
            raise Wrong(
                f"{who}: total is {total[query]:.6g}, and the exponentials in out add up to "
                f"{row.sum():.6g}: total shrinks and grows like out"
            )


def _why(row: Array, weights: Array, wrong: Array, before: float, shift: float) -> str:
    key = int(wrong[0])
    if not weights[key]:
        return f"sees key {key}, which comes after it"
    if not row[key]:
        return f"misses key {key}"
    count = float(row[key] / weights[key])
    grown = float(np.exp(shift - before)) if np.isfinite(before) else 0.0
    if not np.isclose(grown, 1) and np.isclose(count, grown, rtol=1e-4):
        return (
            f"counts key {key} {count:.4g} times: out is relative to the old shift, {before:.4g}, "
            f"and the new one is {shift:.4g}: multiply it by exp(old - new)"
        )
    if np.isclose(count, round(count)):
        return f"counts key {key} {_times(count)}"
    return (
        f"counts key {key} {count:.4g} times: out has {row[key]:.4g} of it, exp(score - shift) is "
        f"{weights[key]:.4g}"
    )


def check_zigzag(answer: Any, length: int, ranks: int) -> None:
    function = answer.zigzag
    what = f"zigzag, {length} positions on {counted(ranks, 'rank')}"
    owners: dict[int, int] = {}
    pairs = []
    for rank in range(ranks):
        found = np.asarray(function(length, ranks, rank))
        if found.shape != (length // ranks,) or found.dtype.kind not in "iu":
            raise Wrong(
                f"{what}: rank {rank} gets {found.dtype} {found.shape}; it must get "
                f"{counted(length // ranks, 'position')}, integers"
            )
        for position in found.tolist():
            if not 0 <= position < length:
                raise Wrong(f"{what}: rank {rank} gets position {position}; there is none")
            if position in owners:
                raise Wrong(
                    f"{what}: position {position} is on rank {owners[position]} and on rank {rank}"
                )
            owners[position] = rank
        if (np.diff(found) < 0).any():
            raise Wrong(f"{what}: rank {rank} gets {found.tolist()}; they must ascend")
        pairs.append(int((found + 1).sum()))
    if max(pairs) != min(pairs):
        slow, fast = pairs.index(max(pairs)), pairs.index(min(pairs))
        raise Wrong(
            f"{what}: rank {slow} computes {pairs[slow]} pairs of a query and a key, rank {fast} "
            f"only {pairs[fast]}: all wait for rank {slow}; {sum(pairs) // ranks} each is possible"
        )


def check_ring(answer: Any, ranks: int) -> None:
    """First with neighbouring positions, then by zigzag, which the mask must not know."""
    function, length = answer.ring_attention, 4 * ranks
    q, k, scores = _inputs(length)
    chunks = np.arange(length).reshape(2 * ranks, -1)
    near = np.arange(length).reshape(ranks, -1)
    apart = np.concatenate([chunks[:ranks], chunks[: ranks - 1 : -1]], axis=1)
    for how, positions in (("neighbouring positions", near), ("zigzag", apart)):
        what = f"{counted(ranks, 'rank')}, {how}"

        def program(group: LessonGroup, positions: Array = positions, what: str = what) -> Any:
            here = positions[group.rank]
            given = {"q": q[here], "k": k[here], "v": np.eye(length)[here]}
            who = f"{what}: ring_attention on rank {group.rank}"
            with np.errstate(all="ignore"), unchanged(who, positions=positions, **given):
                return function(group, *given.values(), positions)

        results = on_ranks(ranks, program)
        for rank, (found, _) in enumerate(results):
            who = f"{what}: ring_attention on rank {rank}"
            shares = check_array(found, (length // ranks, length), who)
            for row, query in zip(shares, positions[rank].tolist(), strict=True):
                _check_row(f"{what}: on rank {rank} query {query}", row, query, scores, positions)
        for rank, (_, made) in enumerate(results):
            _check_sent(f"{what}: rank {rank}", made, ranks, length)
        # Against this project's own attention, with values that are not unit vectors.
        _check_whole(what, [found for found, _ in results], q, k, positions)


def _check_row(who: str, row: Array, query: int, scores: Array, positions: Array) -> None:
    """The shares of all keys in the attention of one query."""
    if not np.isfinite(row).all():
        raise Wrong(f"{who} gives what is not a number: 0 / 0, if it has seen no key at all")
    sees = np.arange(len(row)) <= query
    right = np.where(sees, np.exp(scores[query] - scores[query][sees].max()), 0.0)
    right /= right.sum()

    def owner(key: int) -> str:
        return f"key {key} of rank {int(np.nonzero(positions == key)[0][0])}"

    for key, share in enumerate(row.tolist()):
        if sees[key] and not share:
            raise Wrong(f"{who} misses {owner(key)}")
        if share and not sees[key]:
            raise Wrong(f"{who} sees {owner(key)}, which comes after it")
    counts = row[sees] / right[sees]
    relative = counts / counts.min()
    for key in np.nonzero(~np.isclose(relative, 1, rtol=1e-6))[0].tolist():
        raise Wrong(f"{who} counts {owner(key)} {_times(float(relative[key]))}")
    if not np.isclose(row.sum(), 1):
        raise Wrong(f"{who}: the shares of the keys add up to {row.sum():.6g}: divide by total")


def _check_sent(who: str, made: Sequence[Signature], ranks: int, length: int) -> None:
    others = [call for call in made if call.operation != "send"]
    if others:
        raise Wrong(f"{who} calls {others[0]}: keys go round the ring by send and recv alone")
    peers = list(dict.fromkeys(call.detail.removeprefix("to ") for call in made))
    if len(peers) > 1:
        raise Wrong(
            f"{who} sends to ranks {' and '.join(peers)}; in a ring it sends to one neighbour "
            "only: what it has just used, its own and then what came"
        )
    block = (length // ranks) * (ROOT**2 + length)  # keys, and values
    numbers = sum(prod(call.shape) for call in made)
    if numbers != (ranks - 1) * block:
        raise Wrong(
            f"{who} sends {counted(numbers, 'number')}; {ranks - 1} times the keys and values of a "
            f"rank are {(ranks - 1) * block}"
        )


def _check_whole(what: str, shares: Sequence[Array], q: Array, k: Array, positions: Array) -> None:
    values = np.random.default_rng(0).standard_normal((len(q), 3))
    one, two, three = (Tensor(x[None, None]) for x in (q, k, values))
    right = F.scaled_dot_product_attention(one, two, three, is_causal=True).data[0, 0]
    for rank, share in enumerate(shares):
        if not is_close(share @ values, right[positions[rank]]):
            raise Wrong(f"{what}: rank {rank}'s attention is not that of one process")


def _times(count: float) -> str:
    return "twice" if round(count, 4) == 2 else f"{count:.4g} times"
