"""What is wrong with a recomputation plan, with PowerSGD, or with an order of sending."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ringlet.comm.arrays import Array
from ringlet.comm.schedules.svg import counted
from ringlet.launcher.lessons.ranks import LessonGroup, on_ranks
from ringlet.launcher.lessons.recomputation.exercise import Block
from ringlet.launcher.lessons.wrong import (
    Wrong,
    check_array,
    check_close,
    check_sum,
    check_tuple,
    first_wrong,
    is_close,
    unchanged,
)

HINTS = (
    "peak: go through the blocks as backward does. At block i's turn there are what the blocks "
    "before it hold (kept or input) and all of block i: the largest of these sums.",
    "plan: 8 blocks have 256 plans. itertools.product((False, True), repeat=len(blocks)) makes "
    "them; of those whose peak fits take the one with the fewest seconds.",
    "power_sgd: M q is the sum of (grad + residual) @ q over the ranks, and M^T p that of "
    "(grad + residual).T @ p: two all_reduces of thin arrays, with the qr between them.",
    "The new residual is m - p @ (m.T @ p).T with this rank's own m = grad + residual: take "
    "m.T @ p before the all_reduce adds the others' to it.",
    "next_bucket: which of the waiting ones does the next forward need first?",
)


BLOCKS = (
    [Block(6, 2, 3)],
    [Block(6, 2, 3), Block(6, 2, 3)],
    [Block(6, 1, 5), Block(8, 2, 2), Block(4, 1, 1)],
    [Block(10, 2, 4), Block(3, 2, 1), Block(10, 2, 7), Block(5, 1, 2)],
    [Block(9, 1, 3), Block(9, 1, 3), Block(20, 1, 4), Block(2, 1, 9), Block(6, 3, 2)],
    [Block(7, 1, 4), Block(5, 1, 2), Block(9, 2, 5), Block(4, 2, 1), Block(8, 1, 6),
     Block(6, 1, 3), Block(3, 1, 2)],
)  # fmt: skip


def check(answer: Any) -> Iterator[str]:
    """What is wrong with an exercise: the first thing in each of its parts."""
    for part in (recomputation, compression, scheduling):
        yield from part(answer)


@first_wrong
def recomputation(answer: Any) -> None:
    for blocks in BLOCKS:
        check_peak(answer, blocks)
    for blocks in BLOCKS:
        check_plan(answer, blocks)


@first_wrong
def compression(answer: Any) -> None:
    for ranks in (1, 2, 3):
        check_power_sgd(answer, ranks)


@first_wrong
def scheduling(answer: Any) -> None:
    for layers in (2, 3, 5):
        check_order(answer, layers)


# -- recomputation ------------------------------------------------------------------------------


def moments(blocks: Sequence[Block], again: Sequence[bool]) -> list[int]:
    """By block, the bytes that are held at its turn in backward."""
    found, before = [], 0
    for block, twice in zip(blocks, again, strict=True):
        found.append(before + block.kept)
        before += block.input if twice else block.kept
    return found


def seconds(blocks: Sequence[Block], again: Sequence[bool]) -> int:
    return sum(block.seconds for block, twice in zip(blocks, again, strict=True) if twice)


def plans(count: int) -> list[tuple[bool, ...]]:
    return list(product((False, True), repeat=count))


def check_peak(answer: Any, blocks: Sequence[Block]) -> None:
    function = answer.peak
    for again in plans(len(blocks)):
        turns = moments(blocks, again)
        found, right = function(list(blocks), list(again)), max(turns)
        if found != right:
            turn = turns.index(right)
            raise Wrong(
                f"peak of blocks {_shown(blocks)} with {_named(again)} computed again gives "
                f"{found}; {right} bytes are held in backward of block {turn}: "
                f"{right - blocks[turn].kept} by the blocks before it and {blocks[turn].kept} by "
                "itself"
            )


def check_plan(answer: Any, blocks: Sequence[Block]) -> None:
    """Under each limit at which another plan becomes possible."""
    function = answer.plan
    every = plans(len(blocks))
    least = min(max(moments(blocks, again)) for again in every)
    limits = sorted({max(moments(blocks, again)) for again in every}, reverse=True)
    for limit in [*limits, least - 1]:
        what = f"plan of blocks {_shown(blocks)} under {limit} bytes"
        found = function(list(blocks), limit)
        fitting = [again for again in every if max(moments(blocks, again)) <= limit]
        best = min(fitting, key=lambda again: seconds(blocks, again), default=None)
        if found is None and best is not None:
            raise Wrong(f"{what} is None; {_named(best)} computed again does it")
        if found is None:
            continue
        if not isinstance(found, list | tuple | np.ndarray) or len(found) != len(blocks):
            raise Wrong(f"{what} is {found!r:.60}; it must be a list of {len(blocks)} bools")
        found = [bool(each) for each in found]
        turns = moments(blocks, found)
        over = [turn for turn, held in enumerate(turns) if held > limit]
        if over:
            raise Wrong(
                f"{what}: with {_named(found)} computed again {turns[over[0]]} bytes are held in "
                f"backward of block {over[0]}"
                f"{'; nothing fits, so None is right' if best is None else ''}"
            )
        assert best is not None, "what the answer found fits"
        if seconds(blocks, found) > seconds(blocks, best):
            last = found[-1] and "; its last block saves nothing, as its backward comes first"
            raise Wrong(
                f"{what}: {_named(found)} computed again takes {seconds(blocks, found)} s; "
                f"{_named(best)} is enough, {seconds(blocks, best)} s{last or ''}"
            )


def _shown(blocks: Sequence[Block]) -> str:
    """Each as (kept, input, seconds)."""
    return ", ".join(str(tuple(block)) for block in blocks)


def _named(again: Sequence[bool]) -> str:
    numbers = [str(number) for number, twice in enumerate(again) if twice]
    word = "blocks" if len(numbers) > 1 else "block"
    return f"{word} {', '.join(numbers)}" if numbers else "nothing"


# -- compression --------------------------------------------------------------------------------

ROWS, COLUMNS, THIN = 7, 6, 2


class Step(NamedTuple):
    """What goes into a step: every rank's gradient and residual, and the common q."""

    grads: list[Array]
    residuals: list[Array]
    q: Array

    @property
    def own(self) -> list[Array]:
        return [g + r for g, r in zip(self.grads, self.residuals, strict=True)]


def check_power_sgd(answer: Any, ranks: int) -> None:
    """Three steps. Each begins with the right residuals and q of the one before."""
    function = answer.power_sgd
    draw = np.random.default_rng(ranks).standard_normal
    residuals, q = [np.zeros((ROWS, COLUMNS))] * ranks, draw((COLUMNS, THIN))
    for number in range(3):
        step = Step([draw((ROWS, COLUMNS)) for _ in range(ranks)], residuals, q)
        what = f"power_sgd, {counted(ranks, 'rank')}, step {number + 1}"

        def program(group: LessonGroup, step: Step = step, what: str = what) -> Any:
            grad, residual = step.grads[group.rank].copy(), step.residuals[group.rank].copy()
            q = step.q.copy()
            with unchanged(f"{what}: rank {group.rank}", grad=grad, residual=residual, q=q):
                return function(group, grad, residual, q)

        results = on_ranks(ranks, program)
        found = [check_tuple(each, what, "p", "q", "residual") for each, _ in results]
        p = _check_p([each[0] for each in found], step, what)
        q = _check_q([each[1] for each in found], step, p, what)
        residuals = _check_residuals([each[2] for each in found], step, p, what)
        thin = THIN * (ROWS + COLUMNS)
        for rank, (_, made) in enumerate(results):
            sent = sum(prod(call.shape) for call in made)
            if ranks > 1 and sent > thin:
                raise Wrong(
                    f"{what}: rank {rank} gives {counted(sent, 'number')} to collectives; p and q "
                    f"have {thin}, the whole gradient {ROWS * COLUMNS}"
                )


def _check_p(every: Sequence[Any], step: Step, what: str) -> Array:
    """The right p, whose columns are orthonormal and span M q."""
    ps = [check_array(p, (ROWS, THIN), what, "p") for p in every]
    usual = {
        "each rank's own grad + residual": [own @ step.q for own in step.own],
        "the sum of the gradients without the residuals: what was lost is not fed back": [
            sum(step.grads, np.zeros((ROWS, COLUMNS))) @ step.q
        ] * len(ps),
        "the gradient of each rank alone, without its residual": [g @ step.q for g in step.grads],
    }  # fmt: skip
    product = sum(step.own, np.zeros((ROWS, COLUMNS))) @ step.q
    for rank, p in enumerate(ps):
        who = f"{what}: p on rank {rank}"
        squares = p.T @ p
        if not is_close(squares, np.eye(THIN)):
            place = np.unravel_index(np.abs(squares - np.eye(THIN)).argmax(), squares.shape)
            at = ", ".join(map(str, map(int, place)))
            raise Wrong(
                f"{who}: its columns are not orthonormal: p.T @ p is {squares[place]:.4g} at "
                f"({at}); make them so after the sum, which changes lengths and angles"
            )
        if not _spans(p, product):
            made = next((f": it spans {w}" for w, x in usual.items() if _spans(p, x[rank])), "")
            raise Wrong(f"{who} does not span M q, with M the sum over the ranks{made}")
        if not np.array_equal(p, ps[0]):
            raise Wrong(f"{what}: ranks 0 and {rank} have different p, so their sums differ")
    return ps[0]


def _spans(p: Array, x: Array) -> bool:
    return is_close(p @ (p.T @ x), x)


def _check_q(every: Sequence[Any], step: Step, p: Array, what: str) -> Array:
    ranks = len(step.grads)
    parts = [x.T @ p for each in zip(step.grads, step.residuals, strict=True) for x in each]
    names = [f"rank {rank}'s {part}" for rank in range(ranks) for part in ("gradient", "residual")]
    there = [number for number, part in enumerate(parts) if part.any()]
    for rank, q in enumerate(every):
        check_sum(
            q, [parts[n] for n in there], [names[n] for n in there], [1] * len(there),
            what, f"q on rank {rank}", "q = M^T p, with M the sum of all gradients and residuals",
        )  # fmt: skip
    return np.sum(parts, axis=0)


def _check_residuals(every: Sequence[Any], step: Step, p: Array, what: str) -> list[Array]:
    """The right residuals: what each rank loses of its own."""
    right = [own - p @ (own.T @ p).T for own in step.own]
    total = sum(step.own, np.zeros((ROWS, COLUMNS)))
    said = p @ (total.T @ p).T
    for rank, (found, own) in enumerate(zip(every, step.own, strict=True)):
        who, grad = f"{what}: the residual on rank {rank}", step.grads[rank]
        array = check_array(found, (ROWS, COLUMNS), what, "residual")
        usual = {
            "it is zeros: what is lost is forgotten, and error feedback is lost": 0 * own,
            "that is what was lost of the gradient without the residual of the step before, which "
            "is forgotten": grad - p @ (grad.T @ p).T,
            "it is this rank's part minus the approximation of all ranks' sum: take off its own "
            "part, p @ (m.T @ p).T": own - said,
            "it is what the sum has lost: every rank remembers the same, and the next sum counts "
            f"it {len(every)} times": total - said,
            "it is all of grad + residual, also what has been sent": own,
        }
        for words, mistake in usual.items():
            if is_close(array, mistake) and not is_close(array, right[rank]):
                raise Wrong(f"{who} is wrong: {words}")
        check_close(
            array, right[rank], what, f"the residual on rank {rank}",
            "p @ q.T and all new residuals must add up to all gradients and old residuals",
        )  # fmt: skip
    return right


# -- scheduling ---------------------------------------------------------------------------------


def check_order(answer: Any, layers: int) -> None:
    """A link that takes three units of time for a bucket, backward and forward one for a layer."""
    function = answer.next_bucket

    def step(choose: Any) -> tuple[int, list[int]]:
        """When the next forward ends, and the order of sending."""
        arrived, order, now = dict[int, int](), list[int](), 1
        while len(arrived) < layers:
            final = [n for n in reversed(range(layers)) if layers - n <= now]
            waiting = [n for n in final if n not in arrived]
            if not waiting:
                now += 1
                continue
            given = list(waiting)
            chosen = choose(given)
            if given != waiting:
                raise Wrong(f"next_bucket of {waiting} changes its argument: it leaves {given}")
            if chosen not in waiting:
                raise Wrong(f"next_bucket of {waiting} gives {chosen!r:.40}, which is none of them")
            now += 3
            arrived[chosen] = now
            order.append(chosen)
        end = layers
        for layer in range(layers):
            end = max(end, arrived[layer]) + 1
        return end, order

    (found, order), (best, right) = step(function), step(min)
    if found > best:
        number = next(n for n in range(layers) if order[n] != right[n])
        raise Wrong(
            f"{layers} layers: bucket {order[number]} leaves while bucket {right[number]} waits: "
            f"in the order {order} the next forward ends after {found} units of time, in the order "
            f"{right} after {best}"
        )
