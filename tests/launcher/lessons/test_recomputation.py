"""Lesson 10: the solution is right; wrong plans, compressors and orders are told what they cost."""

from functools import partial

import numpy as np
import pytest
from edits import edited

from ringlet.launcher.lessons.ranks import on_ranks
from ringlet.runtime.compression.power_sgd import PowerSGD

SOLUTION = """
import itertools
import numpy as np

def peak(blocks, again):
    most = before = 0
    for block, twice in zip(blocks, again):
        most = max(most, before + block.kept)
        before += block.input if twice else block.kept
    return most

def plan(blocks, limit):
    every = itertools.product((False, True), repeat=len(blocks))
    fitting = [again for again in every if peak(blocks, again) <= limit]
    cost = lambda again: sum(b.seconds for b, twice in zip(blocks, again) if twice)
    return min(fitting, key=cost, default=None)

def power_sgd(group, grad, residual, q):
    m = grad + residual
    p = group.all_reduce(m @ q)
    p = np.linalg.qr(p)[0]
    own = m.T @ p
    lost = m - p @ own.T
    q = group.all_reduce(own)
    return p, q, lost

def next_bucket(waiting):
    return min(waiting)
"""


changed = partial(edited, SOLUTION)


PEAK = "most = max(most, before + block.kept)"
PLAN = "return min(fitting, key=cost, default=None)"
M, P, QR, Q = (
    "m = grad + residual", "p = group.all_reduce(m @ q)", "np.linalg.qr(p)[0]",
    "q = group.all_reduce(own)",
)  # fmt: skip
GREEDY = """
    again = [False] * len(blocks)
    for number in range(len(blocks)):
        if peak(blocks, again) > limit:
            again[number] = True
    return again if peak(blocks, again) <= limit else None
"""

WRONG = {
    "the residual in its place": (
        changed("lost = m - p @ own.T", "residual[:] = m - p @ own.T; lost = residual"),
        "power_sgd, 1 rank, step 1: rank 0 changes its argument residual: work on a copy",
    ),
    "the residual added to the gradient": (
        changed(M, "grad += residual; m = grad"),
        "power_sgd, 1 rank, step 2: rank 0 changes its argument grad: work on a copy",
    ),
    "the bucket taken off the list": (
        changed("return min(waiting)", "return waiting.pop()"),
        "next_bucket of [1] changes its argument: it leaves []",
    ),
    "no block at its turn": (
        changed(PEAK, "most = max(most, before + (block.input if twice else block.kept))"),
        "peak of blocks (6, 2, 3) with block 0 computed again gives 2; 6 bytes are "
        "held in backward of block 0: 0 by the blocks before it and 6 by itself",
    ),
    "the input twice": (
        changed("before += block.input if twice else block.kept",
                "before += block.input + block.kept"),
        "with nothing computed again gives 14; 12 bytes are held in backward of block 1",
    ),
    "all of them": (
        changed(PLAN, "return [True] * len(blocks)"),
        "plan of blocks (6, 2, 3) under 6 bytes: block 0 computed again takes 3 s; "
        "nothing is enough, 0 s; its last block saves nothing, as its backward comes first",
    ),
    "the first ones": (
        changed(PLAN, GREEDY.strip()),
        "under 14 bytes: block 0 computed again takes 5 s; block 1 is enough, 2 s",
    ),
    "too little": (
        changed(PLAN, "return [False] * len(blocks) if fitting else None"),
        "plan of blocks (6, 2, 3), (6, 2, 3) under 8 bytes: with nothing computed again 12 bytes "
        "are held in backward of block 1",
    ),
    "nothing": (
        changed(PLAN, "return [False] * len(blocks)"),
        "plan of blocks (6, 2, 3) under 5 bytes: with nothing computed again 6 bytes are held",
    ),
    "always None": (changed(PLAN, "return None"), "is None; nothing computed again does it"),
    "never None": (
        changed(PLAN, "return min(fitting, key=cost, default=[True] * len(blocks))"),
        "under 5 bytes: with block 0 computed again 6 bytes are held in backward of block 0; "
        "nothing fits, so None is right",
    ),
    "a plan of numbers": (
        changed(PLAN, "return 3"), "is 3; it must be a list of 1 bools",
    ),
    "no feedback": (
        changed(M, "m = grad"),
        "power_sgd, 1 rank, step 2: p on rank 0 does not span M q, with M the sum over the ranks: "
        "it spans the sum of the gradients without the residuals: what was lost is not fed back",
    ),
    "own p": (
        changed(P, "p = m @ q"),
        "power_sgd, 2 ranks, step 1: p on rank 0 does not span M q, with M the sum over the ranks: "
        "it spans each rank's own grad + residual",
    ),
    "no orthonormal columns": (
        changed(QR, "p"),
        "power_sgd, 1 rank, step 1: p on rank 0: its columns are not orthonormal: p.T @ p is",
    ),
    "orthonormal before the sum": (
        changed(P, "p = group.all_reduce(np.linalg.qr(m @ q)[0])", QR, "p"),
        "power_sgd, 2 ranks, step 1: p on rank 0: its columns are not orthonormal",
    ),
    "columns of length 1": (
        changed(QR, "p / np.linalg.norm(p, axis=0)"), "at (0, 1); make them so after the sum",
    ),
    "p with other signs on a rank": (
        changed(QR, QR + " * (-1 if group.rank else 1)"),
        "power_sgd, 2 ranks, step 1: ranks 0 and 1 have different p",
    ),
    "own q": (
        changed(Q, "q = own"),
        "power_sgd, 2 ranks, step 1: q on rank 0 lacks rank 1's gradient: q = M^T p",
    ),
    "a mean": (
        changed(Q, 'q = group.all_reduce(own, "mean")'), "holds rank 0's gradient 0.5 times",
    ),
    "a residual that is forgotten": (
        changed("return p, q, lost", "return p, q, 0 * lost"),
        "the residual on rank 0 is wrong: it is zeros: what is lost is forgotten, and error "
        "feedback is lost",
    ),
    "a residual of the gradient only": (
        changed("lost = m - p @ own.T", "lost = grad - p @ (grad.T @ p).T"),
        "step 2: the residual on rank 0 is wrong: that is what was lost of the gradient without",
    ),
    "a residual after the sum": (
        changed("    lost = m - p @ own.T\n", "", Q, Q + "\n    lost = m - p @ q.T"),
        "2 ranks, step 1: the residual on rank 0 is wrong: it is this rank's part minus the "
        "approximation of all ranks' sum",
    ),
    "the sum's loss on every rank": (
        changed("    lost = m - p @ own.T\n", "",
                Q, Q + "\n    lost = group.all_reduce(m.copy()) - p @ q.T"),
        "the residual on rank 0 is wrong: it is what the sum has lost: every rank remembers the "
        "same, and the next sum counts it 2 times",
    ),
    "the whole gradient is sent": (
        changed(P, "p = group.all_reduce(m.copy()) @ q"),
        "power_sgd, 2 ranks, step 1: rank 0 gives 54 numbers to collectives; p and q have 26, the "
        "whole gradient 42",
    ),
    "two of three": (changed("return p, q, lost", "return p, q"), "returned 2 values; it must"),
    "first come, first served": (
        changed("min(waiting)", "waiting[0]"),
        "3 layers: bucket 1 leaves while bucket 0 waits: in the order [2, 1, 0] the next forward "
        "ends after 13 units of time, in the order [2, 0, 1] after",
    ),
    "a bucket that does not wait": (
        changed("min(waiting)", "0"), "next_bucket of [1] gives 0, which is none of them",
    ),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert said("recomputation", SOLUTION) == []
    array = "found = min(fitting, key=cost, default=None)\n    "
    array += "return found if found is None else np.array(found)"
    assert said("recomputation", changed(PLAN, array)) == []


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(said, case):
    source, words = WRONG[case]
    found = said("recomputation", source)
    assert words in "\n".join(found)
    assert len(found) <= 3


def test_the_solution_sums_like_the_compressor_that_trains():
    answer: dict = {}
    exec(SOLUTION, answer)
    rows, columns, thin, ranks = 12, 10, 2, 3
    draw = np.random.default_rng(0).standard_normal
    grads = [[draw((rows, columns)).astype(np.float32) for _ in range(ranks)] for _ in range(3)]
    first = draw((columns, thin)).astype(np.float32)

    def program(group):
        compressor = PowerSGD(group, thin)
        compressor.load({"0": first})
        lost, ours, q = np.zeros(rows * columns, np.float32), np.zeros((rows, columns)), first
        for step in grads:
            grad = step[group.rank].reshape(-1).copy()
            compressor.start(grad, lost, [(0, rows * columns, (rows, columns))]).wait()
            p, q, ours = answer["power_sgd"](group, step[group.rank], ours, q)
            np.testing.assert_allclose(p @ q.T, grad.reshape(rows, columns), atol=1e-4)
            np.testing.assert_allclose(ours.reshape(-1), lost, atol=1e-4)

    on_ranks(ranks, program)
