"""Lesson 2: data and model parallelism."""

from functools import partial

import pytest
from edits import edited

SOLUTION = """
def my_samples(samples, rank, ranks):
    return range(samples * rank // ranks, samples * (rank + 1) // ranks)

def my_gradient(weights, inputs, targets, counts, all_count):
    distances = counts * (inputs @ weights - targets)
    return 2 * inputs.T @ distances / all_count

def block_parameters(width):
    return 12 * width**2 + 13 * width

def state_bytes(width, blocks, copies, stages):
    return 4 * 4 * -(-blocks // stages) * block_parameters(width)

def gradient_bytes(parameters, copies):
    return 2 * (copies - 1) / copies * 4 * parameters

def activation_bytes(samples, context, width):
    return 4 * samples * context * width
"""


changed = partial(edited, SOLUTION)


GRADIENT = "return 2 * inputs.T @ distances / all_count"

WRONG = {
    "the rest is forgotten": (
        changed("range(samples * rank // ranks, samples * (rank + 1) // ranks)",
                "range(samples // ranks * rank, samples // ranks * (rank + 1))"),
        "5 samples on 2 ranks: nobody has sample 4",
    ),
    "the rest goes to the last": (
        changed("range(samples * rank // ranks, samples * (rank + 1) // ranks)",
                "range(samples // ranks * rank, "
                "samples if rank == ranks - 1 else samples // ranks * (rank + 1))"),
        "2 samples on 3 ranks: a rank has 2, another 0",
    ),
    "every second one": (
        changed("range(samples * rank // ranks, samples * (rank + 1) // ranks)",
                "range(rank, samples, ranks)"),
        "4 samples on 2 ranks: the samples are not in order: [0, 2, 1, 3]",
    ),
    "one too many": (
        changed("samples * (rank + 1) // ranks)", "samples * (rank + 1) // ranks + 1)"),
        "1 sample on 1 rank: there is no sample 1",
    ),
    "rounded up": (
        changed("range(samples * rank // ranks, samples * (rank + 1) // ranks)",
                "range(-(-samples // ranks) * rank, -(-samples // ranks) * (rank + 1))"),
        "5 samples on 2 ranks: there is no sample 5",
    ),
    "samples in parts": (
        changed("return range(samples * rank", "return samples / ranks, range(samples * rank"),
        "returned (1.0, range(0, 1)); it must return a range, or a list of numbers",
    ),
    "no samples": (changed("return range(", "range("), "returned None; it must return a range"),
    "a mean of means": (
        changed(GRADIENT, "return 2 * inputs.T @ distances / counts.sum()"),
        "on 2 ranks with 2 tokens to count: token 0, which counts, on rank 0, has a part of 1 in "
        "the sum; 0.5 is right",
    ),
    "a mean over the rank, padding too": (
        changed(GRADIENT, "return 2 * inputs.T @ distances / len(counts)"),
        "has a part of 1 in the sum; 0.5 is right",
    ),
    "a sum": (
        changed(GRADIENT, "return 2 * inputs.T @ distances"),
        "on 1 rank with 2 tokens to count: token 0, which counts, on rank 0, has a part of 1 in",
    ),
    "padding counts": (
        changed("counts * (inputs @ weights - targets)", "inputs @ weights - targets"),
        "on 2 ranks with 3 tokens to count: token 1, which does not count, on rank 0, has a part "
        "of 0.3333 in the sum; 0 is right",
    ),
    "the derivative of half a square": (
        changed("return 2 * inputs.T", "return inputs.T"), "has a part of 0.5 in the sum; 1 is",
    ),
    "nothing divided by nothing": (
        changed(GRADIENT, "return 2 * inputs.T @ (distances / counts.sum()) "
                          "* (counts.sum() / all_count)"),
        "where 0 tokens count, has [nan",
    ),
    "the wrong shape": (
        changed(GRADIENT, "return distances"), "returned an array of shape (1,); it must be (2,)",
    ),
    "targets are changed": (
        changed("    distances =", "    targets -= inputs @ weights\n    distances ="),
        "my_gradient on rank 0 of 1 has changed its argument targets",
    ),
    "no biases": (
        changed("12 * width**2 + 13 * width", "12 * width**2 + 4 * width"),
        "block_parameters(width=4): this is 208; 244 parameters is right",
    ),
    "copies share": (
        changed("-(-blocks // stages)", "-(-blocks // (stages * copies))"),
        "55808 bytes is right: every copy has all of its stage's numbers",
    ),
    "parameters alone": (
        changed("4 * 4 * -", "4 * -"), "state_bytes(width=8, blocks=4, copies=1, stages=1)",
    ),
    "rounded down": (
        changed("-(-blocks // stages)", "(blocks // stages)"),
        "this is 60288; 90432 bytes is right: that is a rank with the fewest blocks",
    ),
    "a block in two": (
        changed("-(-blocks // stages)", "blocks / stages"),
        "this is 75360; 90432 bytes is right: a block is not cut: some ranks have one more",
    ),
    "one number of AdamW": (
        changed("4 * 4 * -", "4 * 3 * -"),
        "AdamW keeps two numbers for each parameter, besides it and its gradient",
    ),
    "one way round the ring": (
        changed("2 * (copies - 1)", "(copies - 1)"), "bytes is right: that is half of the ring",
    ),
    "numbers, not bytes": (
        changed("return 4 * samples", "return samples"),
        "activation_bytes(samples=1, context=1, width=4): this is 4; 16 bytes is right: a number "
        "has 4 bytes",
    ),
    "there and back": (
        changed("return 4 * samples", "return 8 * samples"),
        "activation_bytes(samples=1, context=1, width=4): this is 32; 16 bytes is right: their "
        "gradients go the other way, from stage 1",
    ),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert said("data_and_model_parallelism", SOLUTION) == []
    array = "return np.array_split(np.arange(samples), ranks)[rank]\n"
    written = "import numpy as np\n" + changed("return range(", f"{array}    return range(")
    assert said("data_and_model_parallelism", written) == []


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_told_in_words(case, said):
    source, words = WRONG[case]
    found = said("data_and_model_parallelism", source)
    assert 1 <= len(found) <= 3
    assert words in found[0]
