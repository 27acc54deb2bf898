"""What is wrong with column-parallel and row-parallel layers: whose part a gradient lacks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ringlet.comm.arrays import Array
from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import Signature
from ringlet.launcher.lessons.ranks import LessonGroup, on_ranks
from ringlet.launcher.lessons.wrong import (
    Wrong,
    check_close,
    check_sum,
    check_tuple,
    first_wrong,
    unchanged,
)
from ringlet.nn import Tensor
from ringlet.nn import functional as F

HINTS = (
    "Write down the shapes. A weight is (out, in): output features are its rows, input features "
    "its columns. `weight.shape[0] // size` rows each.",
    "Column-parallel, forward: every rank has all of x, and makes its own features. Nobody needs "
    "anything from anybody.",
    "Row-parallel, forward: x @ weight.T with a part of the input features is a part of a sum. "
    "One all_reduce makes it whole. The bias belongs to the sum, not to the parts.",
    "Row-parallel, backward: a sum hands its gradient to each of its parts as it is. All that is "
    "needed is here already: grad @ weight, grad.T @ x, and grad.sum(axis=0).",
    "Column-parallel, backward: x went to all ranks, so its gradient comes from all of them: sum "
    "grad @ weight over the ranks. The weight's rows are this rank's alone: grad.T @ x.",
)
SIZES = (1, 2, 3)


class Case:
    """Two layers on so many ranks, whole and in the right shards; numbers follow from the size."""

    def __init__(self, ranks: int) -> None:
        draw = np.random.default_rng(ranks).standard_normal
        self.ranks, self.rows, self.inner = ranks, ranks + 2, 4 * ranks
        self.x, self.up = draw((self.rows, 6)), draw((self.inner, 6))
        self.down, self.bias = draw((12, self.inner)), draw(12)
        self.grad = draw((self.rows, 12))
        self.ups = np.split(self.up, ranks)
        self.downs = np.split(self.down, ranks, axis=1)
        self.hidden = np.split(draw((self.rows, self.inner)), ranks, axis=1)
        self.names = [f"rank {rank}'s part" for rank in range(ranks)]

    def run(self, program: Callable[[LessonGroup], Any]) -> list[tuple[Any, list[Signature]]]:
        return on_ranks(self.ranks, program)

    def who(self, name: str, rank: int) -> str:
        """The beginning of what is said of a rank's result."""
        return f"{counted(self.ranks, 'rank')}: {name} on rank {rank}"

    def check_calls(self, what: str, made: Sequence[Signature], wanted: int, why: str) -> None:
        """Raise Wrong for another number of collectives; alone a rank may do as it likes."""
        if self.ranks > 1 and len(made) != wanted:
            need = f"{counted(wanted, 'collective')} is" if wanted else "no collective is"
            calls = " and ".join(map(str, made)) or "nothing"
            raise Wrong(f"{what} calls {calls}; {need} needed: {why}")

    def alone(self, rank: int) -> list[int]:
        return [int(other == rank) for other in range(self.ranks)]


@first_wrong
def check(answer: Any) -> None:
    """Raise Wrong for the first thing that is wrong with an exercise."""
    for part in (shards, column_forward, row_forward, row_backward, column_backward, together):
        for ranks in SIZES:
            part(answer, Case(ranks))


def shards(answer: Any, case: Case) -> None:
    for name, features, weight, right in (
        ("column_shard", "output features are the rows", case.up, case.ups),
        ("row_shard", "input features are the columns", case.down, case.downs),
    ):
        cut = getattr(answer, name)
        for rank, expected in enumerate(right):
            what = f"{counted(case.ranks, 'rank')}: {name} for rank {rank}"
            with unchanged(name, weight=weight):
                found = cut(weight, rank, case.ranks)
            why = f"of a weight (out, in) {features}, cut in the order of ranks"
            if isinstance(found, np.ndarray) and found.shape != expected.shape:
                raise Wrong(f"{what} has shape {found.shape}; it must have {expected.shape}: {why}")
            check_close(found, expected, what, "the shard", why)


def column_forward(answer: Any, case: Case) -> None:
    name, whole = "column_forward", (case.rows, case.inner)
    forward = getattr(answer, name)

    def program(group: LessonGroup) -> Any:
        weight, x = case.ups[group.rank], case.x.copy()
        with unchanged(case.who(name, group.rank), x=x, weight=weight):
            return forward(group, x, weight)

    for rank, (found, made) in enumerate(case.run(program)):
        what = f"{case.who(name, rank)}"
        if case.ranks > 1 and isinstance(found, np.ndarray) and found.shape == whole:
            raise Wrong(
                f"{what} returns all {case.inner} output features, {whole}; the next layer wants "
                f"only this rank's {case.inner // case.ranks}: gathering them is for nothing"
            )
        check_close(found, case.x @ case.ups[rank].T, what, "the result", "x @ weight.T")
        case.check_calls(what, made, 0, "every rank has all of x")


def row_forward(answer: Any, case: Case) -> None:
    name = "row_forward"
    forward = getattr(answer, name)

    def program(group: LessonGroup) -> Any:
        x, weight = case.hidden[group.rank], case.downs[group.rank]
        with unchanged(case.who(name, group.rank), x=x, weight=weight, bias=case.bias):
            return forward(group, x, weight, case.bias)

    parts = [x @ weight.T for x, weight in zip(case.hidden, case.downs, strict=True)]
    bias = np.broadcast_to(case.bias, parts[0].shape)
    for rank, (found, made) in enumerate(case.run(program)):
        what = case.who(name, rank)
        parts_and_bias = [*parts, bias], [*case.names, "the bias"], [1] * (case.ranks + 1)
        check_sum(
            found, *parts_and_bias, what, "the result",
            "the ranks' products are summed, and the bias is added once, to the sum",
        )  # fmt: skip
        case.check_calls(what, made, 1, "one all_reduce of the products")


def row_backward(answer: Any, case: Case) -> None:
    name = "row_backward"
    backward = getattr(answer, name)

    def program(group: LessonGroup) -> Any:
        x, weight = case.hidden[group.rank], case.downs[group.rank]
        grad = case.grad.copy()
        with unchanged(case.who(name, group.rank), x=x, weight=weight, grad=grad):
            return backward(group, x, weight, grad)

    same = "the gradient of a sum is that of each of its parts, and every rank has all of it"
    for rank, (found, made) in enumerate(case.run(program)):
        what = case.who(name, rank)
        to_x, to_weight, to_bias = check_tuple(found, what, "to_x", "to_weight", "to_bias")
        x, weight = case.hidden[rank], case.downs[rank]
        own = ["what it should"], [1]
        check_sum(to_x, [case.grad @ weight], *own, what, "x's gradient", same)
        check_sum(to_weight, [case.grad.T @ x], *own, what, "the weight's gradient", same)
        check_sum(to_bias, [case.grad.sum(0)], *own, what, "the bias's gradient", same)
        case.check_calls(what, made, 0, same)


def column_backward(answer: Any, case: Case) -> None:
    name = "column_backward"
    backward = getattr(answer, name)
    grads = [hidden * 1.5 for hidden in case.hidden]  # any numbers of this shape

    def program(group: LessonGroup) -> Any:
        x, weight, grad = case.x.copy(), case.ups[group.rank], grads[group.rank]
        with unchanged(case.who(name, group.rank), x=x, weight=weight, grad=grad):
            return backward(group, x, weight, grad)

    to_xs = [grad @ weight for grad, weight in zip(grads, case.ups, strict=True)]
    to_weights = [grad.T @ case.x for grad in grads]
    for rank, (found, made) in enumerate(case.run(program)):
        what = case.who(name, rank)
        to_x, to_weight = check_tuple(found, what, "to_x", "to_weight")
        check_sum(
            to_x, to_xs, case.names, [1] * case.ranks, what, "x's gradient",
            "x went to every rank, so what comes back from them has to be summed",
        )  # fmt: skip
        check_sum(
            to_weight, to_weights, case.names, case.alone(rank), what, "the weight's gradient",
            "these output features are this rank's alone",
        )  # fmt: skip
        case.check_calls(what, made, 1, "one all_reduce of x's gradient")


def together(answer: Any, case: Case) -> None:
    """The pair with a GELU between, as in a transformer's block, against one process's autograd."""

    def program(group: LessonGroup) -> Any:
        rank, size = group.rank, group.size
        up, down = answer.column_shard(case.up, rank, size), answer.row_shard(case.down, rank, size)
        before = Tensor(answer.column_forward(group, case.x, up), requires_grad=True)
        after = F.gelu(before)
        result = answer.row_forward(group, after.data, down, case.bias)
        to_after, to_down, _ = answer.row_backward(group, after.data, down, case.grad)
        after.backward(to_after)
        to_x, to_up = answer.column_backward(group, case.x, up, before.grad)
        return result, to_x, to_up, to_down

    whole = [Tensor(each, requires_grad=True) for each in (case.x, case.up, case.down)]
    x, up, down = whole
    expected = F.linear(F.gelu(F.linear(x, up)), down, Tensor(case.bias))
    expected.backward(case.grad)
    to_x, to_up, to_down = (_grad(each) for each in whole)
    for rank, (found, _) in enumerate(case.run(program)):
        right: Sequence[Array] = (
            expected.data, to_x,
            np.split(to_up, case.ranks)[rank], np.split(to_down, case.ranks, axis=1)[rank],
        )  # fmt: skip
        names = "the result", "x's gradient", "the first weight's", "the second weight's"
        for name, one, other in zip(names, found, right, strict=True):
            check_close(one, other, case.who("both layers", rank), name)


def _grad(tensor: Tensor) -> Array:
    assert tensor.grad is not None
    return tensor.grad
