"""Is a gradient the whole batch's? If not, of what else is it?"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from ringlet import nn
from ringlet.comm.schedules.svg import counted
from ringlet.nn.autograd.tensor import Array

VOCABULARY, WIDTH, IGNORED = 11, 6, -100

Batch: TypeAlias = list[tuple[Array, Array]]

BATCHES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "one micro-batch": ((2, 5, 10),),
    "two micro-batches that are equally large": ((2, 4, 8), (2, 4, 8)),
    "micro-batches of 2 and 8 targets": ((1, 2, 2), (2, 4, 8)),
    "micro-batches of 2, 9 and 5 targets, with others that do not count": (
        (2, 4, 2), (3, 3, 9), (1, 20, 5),
    ),
    "a micro-batch in which no target counts": ((2, 3, 6), (1, 4, 0), (1, 2, 1)),
}  # fmt: skip
"""Of each micro-batch: samples, positions, and the targets that count."""


class Watched(nn.Module):
    """An embedding and a head. Notes forwards and backwards: "F1", "B1", ..."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.initialize(7)
        self.seen: list[str] = []
        self.embedding.weight.register_post_accumulate_grad_hook(self._backward)

    def forward(self, ids: Any) -> nn.Tensor:
        """(B, T) -> (B, T, V)."""
        self.seen.append(f"F{1 + sum(s[0] == 'F' for s in self.seen)}")
        return self.head(self.embedding(ids).tanh())

    def _backward(self, parameter: nn.Parameter) -> None:
        self.seen.append(f"B{1 + sum(s[0] == 'B' for s in self.seen)}")

    def gradient(self) -> Array:
        """All gradients in one array; raises ValueError for one that is not there."""
        found = []
        for name, parameter in self.named_parameters():
            if parameter.grad is None:
                raise ValueError(f"{name}.grad is None: no backward has reached it")
            found.append(parameter.grad.reshape(-1))
        return np.concatenate(found)


def problem(accumulate: Callable[[nn.Module, Batch], Any]) -> str:
    """What is wrong with the function; "" if nothing is."""
    for name, sizes in BATCHES.items():
        if text := _problem(accumulate, _batch(sizes)):
            return f"with {name}: {text}"
    return ""


def _batch(sizes: tuple[tuple[int, int, int], ...]) -> Batch:
    random, made = np.random.default_rng(len(sizes)), []
    for samples, positions, count in sizes:
        ids, targets = random.integers(VOCABULARY, size=(2, samples, positions))
        targets.reshape(-1)[random.permutation(targets.size)[count:]] = IGNORED
        made.append((ids, targets))
    return made


def _problem(accumulate: Callable[[nn.Module, Batch], Any], batch: Batch) -> str:
    model = Watched()
    sums = [_gradient(model, ids, targets) for ids, targets in batch]
    counts = [int((targets != IGNORED).sum()) for _, targets in batch]
    before = -np.ones_like(sums[0][0])
    _set(model, before)  # of the step before
    model.seen.clear()
    weights = np.concatenate([p.data.reshape(-1) for p in model.parameters()])
    given = [(ids.copy(), targets.copy()) for ids, targets in batch]
    loss = accumulate(model, given)
    if (weights != np.concatenate([p.data.reshape(-1) for p in model.parameters()])).any():
        return "the parameters have changed; only their gradients may"
    if any((a != b).any() for a, b in zip(chain(*batch), chain(*given), strict=True)):
        return "it has changed the micro-batches that it was given"
    if text := _order(model.seen, len(batch), sum(count > 0 for count in counts)):
        return text
    try:
        found = model.gradient()
    except ValueError as error:
        return str(error)
    right = _total([gradient for gradient, _ in sums]) / sum(counts)
    if not _same(found, right):
        return _diagnosis(found, right, before, [gradient for gradient, _ in sums], batch)
    mean = sum(each for _, each in sums) / sum(counts)
    if not isinstance(loss, float | int | np.floating):
        return f"it returned {type(loss).__name__}, not the mean loss as a float"
    if not _same(np.array(float(loss)), np.array(mean)):
        return f"the gradient is right, but the loss that it returned is {loss:.4f}, not {mean:.4f}"
    return ""


def _gradient(model: Watched, ids: Array, targets: Array) -> tuple[Array, float]:
    """The gradient of a micro-batch's summed loss, and that loss."""
    model.zero_grad()
    loss = nn.functional.token_cross_entropy(model(ids), targets, reduction="sum")
    loss.backward()
    return model.gradient(), loss.item()


def _set(model: Watched, flat: Array) -> None:
    start = 0
    for parameter in model.parameters():
        stop = start + parameter.numel()
        parameter.grad = flat[start:stop].reshape(parameter.shape).copy()
        start = stop


def _order(seen: list[str], count: int, least: int) -> str:
    """Why these forwards and backwards are not one of each after the other; "" if they are. At
    `least` as many are needed as there are micro-batches with targets."""
    forwards = sum(each[0] == "F" for each in seen)
    for what, times in (("forward", forwards), ("backward", len(seen) - forwards)):
        if not least <= times <= count:
            batches = counted(count, "micro-batch", "es")
            return f"the model ran {what} {counted(times, 'time')} for {batches}"
    for number in range(1, min(forwards, len(seen) - forwards)):
        if seen.index(f"F{number + 1}") < seen.index(f"B{number}"):
            return (
                f"the forward of micro-batch {number + 1} came before the backward of micro-batch "
                f"{number}, so both are in memory at the same time"
            )
    return ""


def _diagnosis(found: Array, right: Array, before: Array, sums: list[Array], batch: Batch) -> str:
    """In words, of what a wrong gradient is the gradient."""
    if _same(found, right + before):
        return "the gradient of the step before is still in it"
    counts = [int((targets != IGNORED).sum()) for _, targets in batch]
    for what, gradient in _mistakes(sums, counts, [ids.size for ids, _ in batch]):
        for stale, also in ((0, ""), (before, ", and the gradient of the step before is in it")):
            if _same(found, gradient + stale):
                return what + also
    worst = np.abs(found - right).argmax()
    there = f"{found[worst]:.4f} in place of {right[worst]:.4f}"
    return f"the gradient is not the whole batch's: {there}"


def _mistakes(
    sums: list[Array], counts: list[int], positions: list[int]
) -> Iterator[tuple[str, Array]]:
    """Gradients of other losses."""
    total, k, every = sum(counts), len(sums), sum(positions)
    means = [gradient / max(1, count) for gradient, count in zip(sums, counts, strict=True)]
    few, many = min(c for c in counts if c), max(counts)
    yield (
        f"it is the mean of the micro-batches' means: a target among {few} weighs "
        f"{many / few:.3g} times as much as one among {many}; all {total} must weigh the same",
        _total(means) / k,
    )
    yield (
        "it is the sum of the micro-batches' means; the mean divides by all targets",
        _total(means),
    )
    yield f"it is the gradient of the sum, {total} times as large as that of the mean", _total(sums)
    yield "only the last micro-batch's gradient is left, as its own mean", means[-1]
    yield "only the last micro-batch's gradient is left", sums[-1] / total
    yield (
        f"it is divided by all {every} positions; only {total} of their targets count",
        _total(sums) / every,
    )
    yield (
        "means are weighted by positions; weigh them by the targets that count",
        _total([mean * size for mean, size in zip(means, positions, strict=True)]) / every,
    )
    yield f"it is divided by the {k} micro-batches, not by the {total} targets", _total(sums) / k


def _total(arrays: list[Array]) -> Array:
    return np.sum(arrays, axis=0)


def _same(one: Array, other: Array) -> bool:
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-5))
