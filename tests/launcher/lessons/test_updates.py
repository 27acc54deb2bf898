"""Lesson 12: the solution is right, and wrong updates are told which mistake they are."""

from functools import partial

import pytest
from edits import edited

SOLUTION = """
import numpy as np

def padded(size, ranks):
    return -(-size // ranks) * ranks

def shard_of(size, ranks, rank):
    length = padded(size, ranks) // ranks
    return rank * length, (rank + 1) * length

def _filled(x, ranks):
    whole = np.zeros(padded(x.size, ranks), x.dtype)
    whole[: x.size] = x
    return whole

def summed_shard(group, grad):
    return group.reduce_scatter(_filled(grad, group.size))

def total_norm(group, shard):
    total = np.array([shard @ shard])
    group.all_reduce(total)
    return float(np.sqrt(total[0]))

def adamw(data, grad, mean, square, step, rate, betas, eps, decay):
    data -= rate * decay * data
    mean += (1 - betas[0]) * (grad - mean)
    square += (1 - betas[1]) * (grad * grad - square)
    m = mean / (1 - betas[0] ** step)
    s = square / (1 - betas[1] ** step)
    data -= rate * m / (np.sqrt(s) + eps)

def zero_step(group, data, grad, mean, square, step, rate, betas, eps, decay, max_norm):
    shard = summed_shard(group, grad)
    norm = total_norm(group, shard)
    if norm > max_norm:
        shard *= max_norm / norm
    start, stop = shard_of(data.size, group.size, group.rank)
    own = _filled(data, group.size)[start:stop]
    decays = _filled(decay, group.size)[start:stop]
    adamw(own, shard, mean, square, step, rate, betas, eps, decays)
    data[:] = group.all_gather(own).reshape(-1)[: data.size]
    return norm
"""


changed = partial(edited, SOLUTION)


FILLED = "whole = np.zeros(padded(x.size, ranks), x.dtype)"
SUM = "return group.reduce_scatter(_filled(grad, group.size))"
NORM = "    group.all_reduce(total)\n"
GATHER = "data[:] = group.all_gather(own).reshape(-1)[: data.size]"

WRONG = {
    "betas the other way round": (
        changed("eps, decay):\n", "eps, decay):\n    betas = betas[::-1]\n"),
        "after 3 steps: betas[0] is the mean's, betas[1] the square's: they are swapped",
    ),
    "no decay in AdamW": (
        changed("data -= rate * decay * data", "pass"),
        "after 3 steps: nothing decays",
    ),
    "data gets a new array": (
        changed("data[:] = group", "data = group"),
        "zero_step on rank 0, step 1, leaves data as it is: change it in place",
    ),
    "the state of one step only": (
        changed("adamw(own, shard, mean, square,", "adamw(own, shard, mean * 1, square * 1,"),
        "zero_step on rank 0, step 1, leaves mean as it is: change it in place",
    ),
    "nearly the same": (
        changed("max_norm / norm", "max_norm / (norm + 1e-6)"),
        "is -0.05919763; one process gets -0.05919762",
    ),
    "rounded down": (
        changed("-(-size // ranks) * ranks", "size // ranks * ranks"),
        "7 numbers on 2 ranks: padded gives 6; 8 is the least multiple of 2 that holds 7",
    ),
    "always one more": (
        changed("-(-size // ranks) * ranks", "(size // ranks + 1) * ranks"),
        "6 numbers on 1 rank: padded gives 7; 6 is the least multiple",
    ),
    "a last shard without padding": (
        changed("return rank * length, (rank + 1) * length",
                "return rank * length, min(size, (rank + 1) * length)"),
        "7 numbers on 2 ranks: shard_of gives rank 1 (4, 7); (4, 8) is its part of 8 numbers, "
        "padding included",
    ),
    "padding that is not cleared": (
        changed(FILLED, "whole = np.ones(padded(x.size, ranks), x.dtype)"),
        "7 numbers on 2 ranks: summed_shard on rank 1 has [2.] in the padding; it must be zeros",
    ),
    "no sum": (
        changed(SUM, "a, b = shard_of(grad.size, group.size, group.rank)\n"
                     "    return _filled(grad, group.size)[a:b].copy()"),
        "6 numbers on 2 ranks: summed_shard on rank 0: the result lacks rank 1's gradient",
    ),
    "a mean": (
        changed(SUM, 'return group.reduce_scatter(_filled(grad, group.size), "mean")'),
        "holds rank 0's gradient 0.5 times and rank 1's gradient 0.5 times",
    ),
    "a whole all_reduce": (
        changed(SUM, "whole = group.all_reduce(_filled(grad, group.size))\n"
                     "    return np.split(whole, group.size)[group.rank]"),
        "6 numbers on 2 ranks: summed_shard on rank 0 calls all_reduce of (6,) float64, sum; a "
        "reduce_scatter sends half of an all_reduce",
    ),
    "the first shard everywhere": (
        changed(SUM, "return np.split(group.all_reduce(_filled(grad, group.size)), group.size)[0]"),
        "6 numbers on 2 ranks: summed_shard on rank 1 gives the shard of rank 0",
    ),
    "the norm of a shard": (
        changed(NORM, ""),
        "6 numbers on 2 ranks: total_norm on rank 0 gives",
    ),
    "why that is the norm of a shard": (
        changed(NORM, ""), "that is the norm of this rank's shard alone",
    ),
    "a sum of norms": (
        changed("np.array([shard @ shard])", "np.array([np.sqrt(shard @ shard)])",
                "np.sqrt(total[0])", "total[0]"),
        "that is the sum of the shards' norms; it is their squares that add up",
    ),
    "no root": (changed("float(np.sqrt(total[0]))", "float(total[0])"), "that is its square"),
    "a new array for the mean": (
        changed("mean += (1 - betas[0]) * (grad - mean)",
                "mean = betas[0] * mean + (1 - betas[0]) * grad"),
        "adamw leaves mean as it is: change it in place",
    ),
    "no bias correction": (
        changed("mean / (1 - betas[0] ** step)", "mean", "square / (1 - betas[1] ** step)",
                "square"),
        "adamw on 6 numbers on 1 rank, after 3 steps: mean and square are not "
        "corrected for their bias",
    ),
    "half a bias correction": (
        changed("square / (1 - betas[1] ** step)", "square"), "square is not corrected",
    ),
    "steps from 0": (
        changed("** step)", "** (step + 1))"),
        "the bias is corrected for the next step: step counts from 1 already",
    ),
    "L2 for decay": (
        changed("data -= rate * decay * data\n", "grad = grad + decay * data\n"),
        "the decay is added to the gradient (that is Adam's L2)",
    ),
    "decay without the rate": (
        changed("data -= rate * decay", "data -= decay"),
        "the decay is not scaled by the learning rate",
    ),
    "eps under the root": (
        changed("(np.sqrt(s) + eps)", "np.sqrt(s + eps)"), "eps is added under the root",
    ),
    "no gather": (
        changed(GATHER, "data[start:stop] = own[: data.size - start]"),
        "6 numbers on 2 ranks: zero_step on rank 0, step 1: the parameters are wrong: the other "
        "ranks' shards are as before the step: all_gather them",
    ),
    "the first shard's decay": (
        changed("_filled(decay, group.size)[start:stop]",
                "_filled(decay, group.size)[: stop - start]"),
        "every shard decays like the first: cut decay as data is cut",
    ),
    "no clipping": (
        changed("norm > max_norm", "False"), "6 numbers on 1 rank: zero_step on rank 0, step 1: "
        "the parameters are wrong: the gradient is not clipped",
    ),
    "clipping by the shard's norm": (
        changed("    if norm > max_norm:\n        shard *= max_norm / norm\n",
                "    own_norm = np.linalg.norm(shard)\n    if own_norm > max_norm:\n"
                "        shard *= max_norm / own_norm\n"),
        "6 numbers on 2 ranks: zero_step on rank 0, step 1: the parameters are wrong: the gradient "
        "is clipped by the norm of each shard, not of the whole",
    ),
    "a gradient that is scaled up": (
        changed("if norm > max_norm:", "if True:"),
        "step 2: the parameters are wrong: the gradient is scaled up where its norm is below",
    ),
    "the norm after clipping": (
        changed("return norm", "return min(norm, max_norm)"), "the norm before clipping is",
    ),
    "nothing returned": (
        changed("    return norm", ""), "zero_step on rank 0, step 1 returns None",
    ),
    "one shown case": (
        changed("-(-size // ranks) * ranks", "{6: 6, 7: 8}.get(size, 12)"),
        "1 number on 3 ranks: padded gives 12; 3 is",
    ),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert said("updates", SOLUTION) == []


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(said, case):
    source, words = WRONG[case]
    found = said("updates", source)
    assert words in "\n".join(found)
    assert len(found) <= 3
