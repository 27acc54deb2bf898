"""Lesson 9: the solution is right, and wrong layers are told whose part they lack."""

from functools import partial

import pytest
from edits import edited

SOLUTION = """
import numpy as np

def column_shard(weight, rank, size):
    return np.split(weight, size)[rank]

def row_shard(weight, rank, size):
    return np.split(weight, size, axis=1)[rank]

def column_forward(group, x, weight):
    return x @ weight.T

def row_forward(group, x, weight, bias):
    return group.all_reduce(x @ weight.T) + bias

def row_backward(group, x, weight, grad):
    return grad @ weight, grad.T @ x, grad.sum(axis=0)

def column_backward(group, x, weight, grad):
    return group.all_reduce(grad @ weight), grad.T @ x
"""


changed = partial(edited, SOLUTION)


ROW, COLUMN = "return group.all_reduce(x @ weight.T) + bias", "return x @ weight.T\n"
GRADIENTS = "return group.all_reduce(grad @ weight), grad.T @ x"

WRONG = {
    "output features for input features": (
        changed("np.split(weight, size)", "np.split(weight, size, axis=1)"),
        "2 ranks: column_shard for rank 0 has shape (8, 3); it must have (4, 6): of a weight "
        "(out, in) output features are the rows",
    ),
    "every other row": (
        changed("np.split(weight, size)[rank]", "weight[rank::size]"),
        "2 ranks: column_shard for rank 0: the shard is",
    ),
    "the same shard on all ranks": (
        changed("axis=1)[rank]", "axis=1)[0]"), "2 ranks: row_shard for rank 1: the shard is",
    ),
    "gathered features": (
        changed(COLUMN, "return np.concatenate(group.all_gather(x @ weight.T), axis=1)\n"),
        "2 ranks: column_forward on rank 0 returns all 8 output features, (4, 8); the next layer "
        "wants only this rank's 4",
    ),
    "a gathered result that is not used": (
        changed(COLUMN, "group.all_gather(x)\n    return x @ weight.T\n"),
        "2 ranks: column_forward on rank 0 calls all_gather of (4, 6) float64; no collective is "
        "needed",
    ),
    "a sum that is missing": (
        changed(ROW, "return x @ weight.T + bias"),
        "2 ranks: row_forward on rank 0: the result lacks rank 1's part",
    ),
    "a bias in every part": (
        changed(ROW, "return group.all_reduce(x @ weight.T + bias)"),
        "2 ranks: row_forward on rank 0: the result holds the bias twice",
    ),
    "a bias on rank 0 only": (
        changed(ROW, "return group.all_reduce(x @ weight.T) + (bias if group.rank == 0 else 0)"),
        "2 ranks: row_forward on rank 1: the result lacks the bias",
    ),
    "a mean": (
        changed(ROW, 'return group.all_reduce(x @ weight.T, op="mean") + bias'),
        "holds rank 0's part 0.5 times and rank 1's part 0.5 times",
    ),
    "a sum on some ranks": (
        changed(ROW, "y = x @ weight.T\n    if group.rank:\n        group.all_reduce(y)\n"
                     "    return y + bias"),
        "2 ranks: nobody can go on: rank 0 has ended; rank 1 waits for the others in its "
        "collective 1, all_reduce of (4, 12) float64, sum",
    ),
    "sums of different shapes": (
        changed(ROW, "y = x @ weight.T\n    y = y.T.copy() if group.rank else y\n"
                     "    return group.all_reduce(y) + bias"),
        "collective 1 differs: rank 0 calls all_reduce of (4, 12) float64, sum; rank 1 calls "
        "all_reduce of (12, 4) float64, sum",
    ),
    "a gradient that is summed again": (
        changed("return grad @ weight, ", "return group.all_reduce(grad.copy()) @ weight, "),
        "2 ranks: row_backward on rank 0: x's gradient holds what it should twice: the gradient of "
        "a sum is that of each of its parts",
    ),
    "an argument that is overwritten": (
        changed("return grad @ weight, ", "return group.all_reduce(grad) @ weight, "),
        "2 ranks: row_backward on rank 0 changes its argument grad: work on a copy",
    ),
    "a gradient that is not summed": (
        changed(GRADIENTS, "return grad @ weight, grad.T @ x"),
        "2 ranks: column_backward on rank 0: x's gradient lacks rank 1's part: x went to every "
        "rank, so what comes back from them has to be summed",
    ),
    "a weight's gradient that is summed": (
        changed(GRADIENTS, GRADIENTS.replace("grad.T @ x", "group.all_reduce(grad.T @ x)")),
        "2 ranks: column_backward on rank 0: the weight's gradient holds rank 1's part too: these "
        "output features are this rank's alone",
    ),
    "nothing returned": (
        changed(COLUMN, "x @ weight.T\n"),
        "column_forward on rank 0 returned None; it must return the result of shape (3, 4)",
    ),
    "one of two": (
        changed(GRADIENTS, "return grad @ weight"),
        "column_backward on rank 0 returned ndarray; it must return (to_x, to_weight)",
    ),
    "float32": (
        changed(COLUMN, "return (x @ weight.T).astype(np.float32)\n"),
        "column_forward on rank 0 returned the result of float32; it must be float64",
    ),
    "a call that there is not": (
        changed(COLUMN, "return group.bcast(x)\n"),
        "AttributeError: the group of an exercise has no bcast: it has comm.Group's messages",
    ),
    "an option that there is not": (
        changed(COLUMN, "return group.all_reduce(x, root=0)\n"),
        "TypeError: all_reduce takes no argument root",
    ),
    "a list": (
        changed(COLUMN, "return (x @ weight.T).tolist()\n"),
        "returned a list; it must return the result",
    ),
    "an error on one rank": (
        changed(COLUMN, "return x @ [weight.T][group.rank]\n"),
        "exercise.py, line 11, in column_forward: IndexError: list index out of range (on rank 1 "
        "of 2)",
    ),
    "one shown case": (
        changed(COLUMN, "return (x @ weight.T) * (group.size < 3)\n"),
        "3 ranks: column_forward on rank 0: the result is",
    ),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert said("tensor_parallelism", SOLUTION) == []


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(said, case):
    source, words = WRONG[case]
    found = said("tensor_parallelism", source)
    assert words in "\n".join(found)
    assert len(found) <= 3
