"""Lesson 3: pipelines."""

from functools import partial

import pytest
from edits import edited

HEAD = "from ringlet.runtime.pipeline.actions import Action\n"

BUBBLE = """
def bubble(ranks, micro_batches):
    return (ranks - 1) / (micro_batches + ranks - 1)
"""

HELD = """
def held(rank, ranks, micro_batches):
    return min(micro_batches, ranks - rank)
"""

SCHEDULE = """
def one_forward_one_backward(rank, ranks, micro_batches):
    forwards = [Action("F", rank, m) for m in range(micro_batches)]
    backwards = [Action("B", rank, m) for m in range(micro_batches)]
    ahead = min(ranks - 1 - rank, micro_batches)
    actions = forwards[:ahead]
    for number, backward in enumerate(backwards):
        actions += forwards[ahead + number : ahead + number + 1]
        actions.append(backward)
    return actions
"""

SOLUTION = HEAD + BUBBLE + HELD + SCHEDULE


changed = partial(edited, SOLUTION)


WRONG = {
    "not written": (
        changed("return (ranks - 1) / (micro_batches + ranks - 1)", "raise NotImplementedError"),
        "line 4, in bubble: this is not written yet",
    ),
    "a bubble of the work, not of the step": (
        changed("/ (micro_batches + ranks - 1)", "/ micro_batches"),
        "bubble(ranks=2, micro_batches=1): this is 1; 0.5 of the step is right (count the dots in: "
        "ringlet explain pipeline --stages 2 --micro-batches 1)",
    ),
    "GPipe's memory": (
        changed("return min(micro_batches, ranks - rank)", "return micro_batches"),
        "held(rank=0, ranks=1, micro_batches=2): this is 2; 1 held is right",
    ),
    "few micro-batches are forgotten": (
        changed("return min(micro_batches, ranks - rank)", "return ranks - rank"),
        "held(rank=0, ranks=2, micro_batches=1): this is 2; 1 held is right",
    ),
    "GPipe": (
        changed("ahead = min(ranks - 1 - rank, micro_batches)", "ahead = micro_batches"),
        "your 1F1B of 1 rank, 2 micro-batches: stage 0 holds 2 micro-batches, the bound is 1",
    ),
    "right for four stages alone": (
        changed("ahead = min(ranks - 1 - rank, micro_batches)", "ahead = 3 - rank"),
        "your 1F1B of 1 rank, 2 micro-batches: stage 0 holds 2 micro-batches, the bound is 1",
    ),
    "one forward too few": (
        changed("ranks - 1 - rank, micro", "max(0, ranks - 2 - rank), micro"),
        "your 1F1B of 2 ranks, 2 micro-batches: it takes 12 units of time (a forward 1, a backward "
        "2); GPipe takes 9",
    ),
    "one forward too many": (
        changed("ranks - 1 - rank, micro", "ranks - rank, micro"),
        "stage 0 holds 2 micro-batches, the bound is 1",
    ),
    "the warm-up of the last stage everywhere": (
        changed("ranks - 1 - rank, micro_batches", "0, micro_batches"),
        "your 1F1B of 2 ranks, 2 micro-batches: it takes 12 units",
    ),
    "the warm-up from the wrong end": (
        changed("ranks - 1 - rank, micro_batches", "rank, micro_batches"),
        "your 1F1B of 2 ranks, 2 micro-batches deadlocks: rank 0 waits at RECV_B0.0 for rank 1; "
        "rank 1 waits at RECV_F1.1 for rank 0",
    ),
    "forwards are left out": (
        changed("actions += forwards[ahead + number : ahead + number + 1]", "pass"),
        "your 1F1B of 1 rank, 1 micro-batch: rank 0, F0.0: it is missing",
    ),
    "the last backward is left out": (
        changed("return actions", "return actions[:-1]"),
        "your 1F1B of 1 rank, 1 micro-batch: rank 0, B0.0: it is missing",
    ),
    "backwards in reverse": (
        changed("return actions", "return forwards + backwards[::-1]"),
        "micro-batch 1 was before it; gradients would add up in another order",
    ),
    "all on the first stage": (
        changed('Action("F", rank, m)', 'Action("F", 0, m)'),
        "rank 1, F0.0: stage 0 is on rank 0",
    ),
    "a backward before its forward": (
        changed("return actions", "return sorted(actions)"),
        "rank 0, B0.0: F0.0 must come before it",
    ),
    "kinds in words": (changed('"F"', '"forward"'), "has forward0.0; kinds are F and B"),
    "no actions": (
        changed('Action("F", rank, m)', '("F", rank, m)'),
        "has ('F', 0, 0), which is no Action",
    ),
    "nothing returned": (
        changed("    return actions", "    pass"),
        "one_forward_one_backward(rank=0, ranks=1, micro_batches=1) returned None",
    ),
}


def test_the_solution_is_right(said):
    assert said("pipelines", SOLUTION) == []


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_told_in_words(case, said):
    source, words = WRONG[case]
    found = said("pipelines", source)
    assert len(found) <= 2
    assert words in found[0]
