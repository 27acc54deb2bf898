"""Lesson 3: write the pipeline schedule 1F1B.

A pipeline of `ranks` stages: stage r is on rank r. What a rank computes is a list of actions,
`Action(kind, stage, micro_batch)`, in the order in which it takes them. Kinds are "F", the forward
of a micro-batch, and "B", its backward. A forward needs that of the stage before, a backward that
of the stage after and the forward of its own. You need not send or receive anything: messages are
put in between. In what the check says, B2.5 is the backward of stage 2 for micro-batch 5, and
RECV_B2.5 the receive of the gradient that it needs.

`gpipe` below is a whole schedule, to look at. Complete the three functions after it.
"""

from ringlet.runtime.pipeline.actions import Action


def gpipe(rank: int, ranks: int, micro_batches: int) -> list[Action]:
    """All forwards, then all backwards (Huang et al., 2019)."""
    forwards = [Action("F", rank, number) for number in range(micro_batches)]
    backwards = [Action("B", rank, number) for number in range(micro_batches)]
    return forwards + backwards


def bubble(ranks: int, micro_batches: int) -> float:
    """The part of a step in which a rank has nothing to do, between 0 and 1.

    It is the same for GPipe and 1F1B. All stages take the same time, and a backward may take
    another time than a forward. Find the formula in the picture of the lesson.
    """
    raise NotImplementedError


def held(rank: int, ranks: int, micro_batches: int) -> int:
    """The most micro-batches whose activations the rank holds at the same time in 1F1B.

    A micro-batch is held from its forward to its backward on this rank.
    """
    raise NotImplementedError


def one_forward_one_backward(rank: int, ranks: int, micro_batches: int) -> list[Action]:
    """What the rank computes in 1F1B (Narayanan et al., 2021), in order.

    What must hold, for any number of ranks and of micro-batches, also for fewer micro-batches than
    ranks:

    - every micro-batch has one "F" and one "B" on this rank, with stage `rank`;
    - backwards are in the order of the micro-batches;
    - the step is no longer than GPipe's;
    - rank r holds no more than min(micro_batches, ranks - r) micro-batches at once.
    """
    raise NotImplementedError
