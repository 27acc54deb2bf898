"""What is wrong with ZeRO 1: a shard, a sum, a norm, or one of Adam's corrections.

Numbers that are wrong are compared with those of usual mistakes, to name the mistake.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ringlet.comm.arrays import Array
from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import Signature
from ringlet.launcher.lessons.ranks import LessonGroup, on_ranks
from ringlet.launcher.lessons.words import told_apart
from ringlet.launcher.lessons.wrong import (
    Wrong,
    check_array,
    check_close,
    check_sum,
    first_wrong,
    is_close,
    unchanged,
)
from ringlet.nn import FlatParameters, Parameter
from ringlet.nn.optim import AdamW

HINTS = (
    "The padded length is the least multiple of the ranks: -(-size // ranks) rounds up.",
    "summed_shard: copy the gradient into np.zeros(padded(...)) and reduce_scatter that. The "
    "padding takes part in the sum and must be zeros.",
    "total_norm: norms do not add up, squares do. Sum this rank's squares, all_reduce an array of "
    "that one number, and take the root.",
    "adamw: write into the arrays (mean *= ...; mean += ...): `mean = ...` makes a new one. Step "
    "is 1 at first, so nothing is divided by zero.",
    "zero_step: summed_shard, total_norm, scale; pad data and decay, cut this rank's shard out of "
    "both, adamw; all_gather the shards and copy the first `size` numbers back into data.",
)
SIZES = ((6, 1), (6, 2), (7, 2), (10, 4), (1, 3))
RATE, BETAS, EPS = 0.1, (0.9, 0.95), 1e-3


@first_wrong
def check(answer: Any) -> None:
    """Raise Wrong for the first thing that is wrong with an exercise."""
    for part in (shards, sums, norms, adam, steps):
        for size, ranks in SIZES:
            part(answer, Case(size, ranks))


class Case:
    """So many numbers on so many ranks; values follow from the two."""

    def __init__(self, size: int, ranks: int) -> None:
        draw = np.random.default_rng([size, ranks]).standard_normal
        self.size, self.ranks = size, ranks
        self.length = -(-size // ranks)
        self.padded = self.length * ranks
        self.data = draw(size)
        self.grads = [[draw(size) for _ in range(ranks)] for _ in range(3)]
        # A matrix, then a bias, which does not decay: where they meet, no shard ends.
        self.matrix = size - size // 3
        self.decay = np.where(np.arange(size) < self.matrix, 0.5, 0.0)
        self.text = f"{counted(size, 'number')} on {counted(ranks, 'rank')}"

    def run(self, program: Callable[[LessonGroup], Any]) -> list[tuple[Any, list[Signature]]]:
        return on_ranks(self.ranks, program)

    def place(self, rank: int) -> slice:
        return slice(rank * self.length, (rank + 1) * self.length)

    def shards(self, x: Array) -> list[Array]:
        """Of a whole array, padded with zeros."""
        return np.split(np.pad(x, (0, self.padded - self.size)), self.ranks)

    def who(self, name: str, rank: int) -> str:
        return f"{self.text}: {name} on rank {rank}"


def shards(answer: Any, case: Case) -> None:
    length = answer.padded(case.size, case.ranks)
    if length != case.padded:
        raise Wrong(
            f"{case.text}: padded gives {length}; {case.padded} is the least multiple of "
            f"{case.ranks} that holds {case.size}"
        )
    for rank in range(case.ranks):
        found = answer.shard_of(case.size, case.ranks, rank)
        right = case.place(rank).start, case.place(rank).stop
        if not isinstance(found, tuple | list) or tuple(found) != right:
            raise Wrong(
                f"{case.text}: shard_of gives rank {rank} {found}; {right} is its part of "
                f"{case.padded} numbers, padding included"
            )


def sums(answer: Any, case: Case) -> None:
    function = answer.summed_shard
    grads = case.grads[0]

    def program(group: LessonGroup) -> Any:
        grad = grads[group.rank].copy()
        with unchanged(case.who("summed_shard", group.rank), grad=grad):
            return function(group, grad)

    results = case.run(program)
    for rank, (found, _) in enumerate(results):
        what = case.who("summed_shard", rank)
        own = check_array(found, (case.length,), what)
        every = [np.sum(each, axis=0) for each in zip(*map(case.shards, grads), strict=True)]
        for other, total in enumerate(every):
            if other != rank and total.any() and is_close(own, total):
                raise Wrong(f"{what} gives the shard of rank {other}")
        here = max(0, min(case.length, case.size - rank * case.length))
        names = [f"rank {other}'s gradient" for other in range(case.ranks)]
        parts = [case.shards(grad)[rank][:here] for grad in grads]
        if here:
            check_sum(own[:here], parts, names, [1] * case.ranks, what, "the result")
        if own[here:].any():
            raise Wrong(f"{what} has {own[here:]} in the padding; it must be zeros")
    for rank, (_, made) in enumerate(results):
        others = [call for call in made if call.operation != "reduce_scatter"]
        if case.ranks > 1 and others:
            raise Wrong(
                f"{case.who('summed_shard', rank)} calls {others[0]}; a reduce_scatter sends half "
                "of an all_reduce, and its result is this rank's shard"
            )


def norms(answer: Any, case: Case) -> None:
    function, grad = answer.total_norm, np.sum(case.grads[0], axis=0)
    own = case.shards(grad)

    def program(group: LessonGroup) -> Any:
        shard = own[group.rank].copy()
        with unchanged(case.who("total_norm", group.rank), shard=shard):
            return function(group, shard)

    right, each = float(np.linalg.norm(grad)), [float(np.linalg.norm(part)) for part in own]
    for rank, (found, _) in enumerate(case.run(program)):
        what = case.who("total_norm", rank)
        norm = _number(found, what)
        if np.isclose(norm, right):
            continue
        usual = {
            each[rank]: "that is the norm of this rank's shard alone",
            sum(each): "that is the sum of the shards' norms; it is their squares that add up",
            right**2: "that is its square",
            right / case.ranks**0.5: "that is the root of the mean of the shards' squares",
        }
        why = next((f": {words}" for value, words in usual.items() if np.isclose(norm, value)), "")
        raise Wrong(f"{what} gives {norm:.6g}; {right:.6g} is the whole gradient's norm{why}")


@dataclass(frozen=True)
class How:
    """How Adam is computed; what is not the default is a usual mistake."""

    correct: tuple[bool, bool] = (True, True)
    late: int = 0
    swapped: bool = False
    decay: str = "decoupled"
    root: str = "then eps"
    norm: str = "whole"
    gathers: bool = True


def adam_step(
    data: Array, grad: Array, state: tuple[Array, Array], step: int, decay: Array, how: How
) -> None:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) in place, right or with a mistake."""
    mean, square = state
    step += how.late
    if how.decay == "in the gradient":
        grad = grad + decay * data
    elif how.decay != "after the update":
        data -= (1 if how.decay == "without the rate" else RATE) * decay * data
    betas = BETAS[::-1] if how.swapped else BETAS
    mean += (1 - betas[0]) * (grad - mean)
    square += (1 - betas[1]) * (grad * grad - square)
    m, s = (
        x / (1 - beta**step) if right else x.copy()
        for x, beta, right in zip(state, betas, how.correct, strict=True)
    )
    data -= RATE * m / (np.sqrt(s + EPS) if how.root == "of eps too" else np.sqrt(s) + EPS)
    if how.decay == "after the update":
        data -= RATE * decay * data


ADAM = {
    How(correct=(False, False)): "mean and square are not corrected for their bias: in step 1 mean "
    "is 0.1 g, and dividing by 1 - betas[0] ** step makes it g",
    How(correct=(False, True)): "mean is not corrected for its bias: divide by "
    "1 - betas[0] ** step",
    How(correct=(True, False)): "square is not corrected for its bias: divide by "
    "1 - betas[1] ** step",
    How(late=1): "the bias is corrected for the next step: step counts from 1 already",
    How(swapped=True): "betas[0] is the mean's, betas[1] the square's: they are swapped",
    How(decay="none"): "nothing decays",
    How(decay="in the gradient"): "the decay is added to the gradient (that is Adam's L2); AdamW "
    "shrinks the parameters by themselves",
    How(decay="without the rate"): "the decay is not scaled by the learning rate",
    How(decay="after the update"): "the decay comes after the update; it comes before",
    How(root="of eps too"): "eps is added under the root; it is added to the root",
}


def adam(answer: Any, case: Case) -> None:
    adamw = answer.adamw

    def taken(change: Callable[[Array, Array, tuple[Array, Array], int], Any]) -> list[Array]:
        data, state = case.data.copy(), (np.zeros(case.size), np.zeros(case.size))
        for step, grads in enumerate(case.grads, 1):
            change(data, grads[0], state, step)
        return [*state, data]

    def theirs(data: Array, grad: Array, state: tuple[Array, Array], step: int) -> None:
        with unchanged("adamw", grad=grad, decay=case.decay):
            found = adamw(data, grad, *state, step, RATE, BETAS, EPS, case.decay)
        if step == 1:
            for array, name in ((state[0], "mean"), (state[1], "square"), (data, "data")):
                before = case.data if name == "data" else np.zeros(case.size)
                if np.array_equal(array, before):
                    hint = "; what it returns is not looked at" if found is not None else ""
                    raise Wrong(f"adamw leaves {name} as it is: change it in place{hint}")

    def ours(how: How) -> list[Array]:
        decay = case.decay * (how.decay != "none")
        return taken(lambda data, grad, state, step: adam_step(data, grad, state, step, decay, how))

    def same(usual: list[Array]) -> bool:
        return all(is_close(*both) for both in zip(found, usual, strict=True))

    found, what = taken(theirs), f"adamw on {case.text}, after {len(case.grads)} steps"
    right = ours(How())
    if not same(right):
        for how, words in ADAM.items():
            if same(ours(how)):
                raise Wrong(f"{what}: {words}")
    for name, array, expected in zip(("mean", "square", "data"), found, right, strict=True):
        check_close(array, expected, what, name)


ZERO = {
    How(gathers=False): "the other ranks' shards are as before the step: all_gather them",
    How(norm="none"): "the gradient is not clipped",
    How(norm="own"): "the gradient is clipped by the norm of each shard, not of the whole",
    How(norm="always"): "the gradient is scaled up where its norm is below max_norm",
    How(decay="first shard's"): "every shard decays like the first: cut decay as data is cut",
    How(decay="none"): "nothing decays",
}


def steps(answer: Any, case: Case) -> None:
    function = answer.zero_step
    # Clipped in the first step, not in the others.
    norms = [float(np.linalg.norm(np.sum(grads, axis=0))) for grads in case.grads]
    limits = [norms[0] / 2, norms[1] * 2, norms[2] * 3]

    def program(group: LessonGroup) -> Any:
        what, rank = case.who("zero_step", group.rank), group.rank
        data, found = case.data.copy(), []
        state = np.zeros(case.length), np.zeros(case.length)
        for step, (grads, limit) in enumerate(zip(case.grads, limits, strict=True), 1):
            grad = grads[rank].copy()
            with unchanged(what, grad=grad, decay=case.decay):
                norm = function(
                    group, data, grad, *state, step, RATE, BETAS, EPS, case.decay, limit
                )
            if np.array_equal(data, case.data):
                raise Wrong(f"{what}, step {step}, leaves data as it is: change it in place")
            own = case.shards(np.sum(grads, axis=0))[rank]
            if own.any() and not state[0].any():
                raise Wrong(f"{what}, step {step}, leaves mean as it is: change it in place")
            found.append((data.copy(), norm))
        return found

    results = [result for result, _ in case.run(program)]
    right = _one_process(case, limits)
    for step in range(len(limits)):
        for rank, found in enumerate(results):
            data, norm = found[step]
            what = f"{case.who('zero_step', rank)}, step {step + 1}"
            if not np.isclose(_number(norm, what), norms[step]):
                raise Wrong(f"{what} returns {norm}; the norm before clipping is {norms[step]:.6g}")
            if not is_close(data, right[step]):
                for how, words in ZERO.items():
                    usual = _zero(case, limits, how, rank)
                    if all(is_close(found[n][0], usual[n]) for n in range(step + 1)):
                        raise Wrong(f"{what}: the parameters are wrong: {words}")
                raise Wrong(_where(case, data, right[step], what))


def _where(case: Case, data: Array, right: Array, what: str) -> str:
    """The first number that differs, and whose shard it is in."""
    place = int(np.nonzero(~np.isclose(data, right, rtol=1e-7, atol=1e-12))[0][0])
    one, other = told_apart(data[place], right[place])
    where = f"data[{place}], in the shard of rank {place // case.length}"
    return f"{what}: {where}, is {one}; one process gets {other}"


def _one_process(case: Case, limits: Iterable[float]) -> list[Array]:
    """The parameters after each step, by this project's own optimizer on whole gradients."""
    parts = np.split(case.data.copy(), [case.matrix])
    named = [("weight", Parameter(parts[0].reshape(1, -1))), ("bias", Parameter(parts[1]))]
    flat, found = FlatParameters([each for each in named if each[1].numel()]), []
    optimizer = AdamW(flat, RATE, BETAS, EPS, weight_decay=float(case.decay.max()))
    for grads, limit in zip(case.grads, limits, strict=True):
        flat.grad[...] = np.sum(grads, axis=0)
        flat.grad[...] *= min(1.0, limit / float(np.linalg.norm(flat.grad)))
        optimizer.step()
        found.append(flat.data.copy())
    return found


def _zero(case: Case, limits: Iterable[float], how: How, rank: int) -> list[Array]:
    """The parameters on a rank after each step of ZeRO 1 with a mistake."""
    data, found = np.pad(case.data, (0, case.padded - case.size)), []
    decays = case.shards(case.decay)
    states = [(np.zeros(case.length), np.zeros(case.length)) for _ in range(case.ranks)]
    for step, (grads, limit) in enumerate(zip(case.grads, limits, strict=True), 1):
        own = case.shards(np.sum(grads, axis=0))
        whole = float(np.linalg.norm(np.concatenate(own)))
        for each in range(case.ranks):
            norm = float(np.linalg.norm(own[each])) if how.norm == "own" else whole
            clips = how.norm == "always" or (how.norm != "none" and norm > limit)
            grad = own[each] * (limit / norm if clips else 1.0)
            decay = decays[0 if how.decay == "first shard's" else each] * (how.decay != "none")
            if how.gathers or each == rank:
                part = data[case.place(each)]
                adam_step(part, grad, states[each], step, decay, replace(how, decay="decoupled"))
        found.append(data[: case.size].copy())
    return found


def _number(found: Any, what: str) -> float:
    try:
        return float(found)
    except (TypeError, ValueError):
        kind = "None" if found is None else type(found).__name__
        raise Wrong(f"{what} returns {kind}, not a number") from None
