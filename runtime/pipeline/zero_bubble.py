"""Zero-bubble schedules: each backward in two parts, to the inputs at once, to the weights later.

The stage before waits only for the inputs' gradients; the weights' fill the waits. Qi et al.,
"Zero bubble pipeline parallelism", 2024 (arXiv 2401.10241). Each function gives the actions of one
rank. Schedules that are searched for are in automatic.py.
"""

from collections import Counter, deque

from ringlet.runtime.pipeline.actions import Action
from ringlet.runtime.pipeline.one_forward_one_backward import alternate, passes_of


def zero_bubble(rank: int, ranks: int, micro_batches: int, chunks: int) -> list[Action]:
    """ZB-H1, section 2.1: 1F1B, with the weights' part `rank` micro-batches behind.

    So every rank holds the activations of `ranks` micro-batches, no more than rank 0 of 1F1B, and
    has work left to fill the wait at the end.
    """
    return _split(rank, micro_batches, warm_up=ranks - 1 - rank, behind=rank)


def zero_bubble_h2(rank: int, ranks: int, micro_batches: int, chunks: int) -> list[Action]:
    """ZB-H2, section 2.2: forwards fill the wait for the first gradient too.

    Rank r takes twice as many forwards ahead, and runs the weights' part 2 r micro-batches behind,
    so it holds the activations of 2 ranks - 1 micro-batches. Ranks end one after another, as they
    began: with equal times no rank ever waits between its first action and its last.
    """
    return _split(rank, micro_batches, warm_up=2 * (ranks - 1 - rank), behind=2 * rank)


def zero_bubble_v(rank: int, ranks: int, micro_batches: int, chunks: int) -> list[Action]:
    """ZB-V, section 6, for two chunks of layers that lie in a V.

    Micro-batches go down the ranks and back up, so the last stage is on rank 0, which has its
    gradients at once. With equal times no rank waits between its first action and its last, as in
    ZB-H2, and none holds more activations than rank 0 of 1F1B. The schedule is made for at least
    2 ranks - 1 micro-batches, and those that are missing are left out; the rest stays executable,
    since no micro-batch needs another.
    """
    down, up = rank, 2 * ranks - 1 - rank
    count = max(micro_batches, 2 * ranks - 1)
    ahead = 2 * (ranks - rank) - 1
    steps = [("F", down)] * ahead + [("F", up), ("F", down)] * rank
    steps += [("F", up), ("I", up), ("W", up)] * (ranks - rank)
    for number in range(count - ranks):
        forward = [("F", down)] if ahead + rank + number < count else []
        steps += [*forward, ("I", down), ("W", down), ("F", up), ("I", up), ("W", up)]
    steps += [("I", down), ("I", up)] * rank + [("I", down), ("W", down)] * (ranks - rank)
    steps += [("W", up)] * rank + [("W", down)] * rank
    taken: Counter[tuple[str, int]] = Counter()
    actions = []
    for step in steps:
        actions.append(Action(*step, taken[step]))
        taken[step] += 1
    return [action for action in actions if action.micro_batch < micro_batches]


def v_placement(ranks: int) -> tuple[int, ...]:
    """The rank of each stage of a V: down the ranks, and back up."""
    return (*range(ranks), *reversed(range(ranks)))


def _split(stage: int, micro_batches: int, warm_up: int, behind: int) -> list[Action]:
    """1F1B with this many forwards ahead, and each W after the I `behind` micro-batches later."""
    actions: list[Action] = []
    waiting: deque[Action] = deque()
    for action in alternate(*passes_of(stage, micro_batches, "I"), warm_up):
        actions.append(action)
        if action.kind == "I":
            waiting.append(action._replace(kind="W"))
            if len(waiting) > behind:
                actions.append(waiting.popleft())
    return [*actions, *waiting]
