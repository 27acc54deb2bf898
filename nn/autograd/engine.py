"""The backward pass: from a result to its leaves, each operation once, in an order in which every
gradient is complete before it is passed on."""

import threading
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from ringlet.nn.autograd.deferred import Deferred, Gradient
from ringlet.nn.autograd.source import UNNEEDED, Source
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, refuse_mixture, xp
from ringlet.nn.versions import changes, refuse_stale


class WeightGradients:
    """The postponed part of a backward pass: the gradients of the parameters.

    Zero-bubble pipelines (Qi et al., 2024) pass the inputs' gradients on first and fill the gaps
    of their schedule with the weights'.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Array | Deferred | None, bool]] = []

    def append(self, leaf: Tensor, part: Array | Deferred | None, final: bool) -> None:
        """Postpone a leaf's part; `final` says that it is the last one of its pass."""
        self._parts.append((leaf, part, final))

    def run(self) -> None:
        """Compute and add what was postponed, in the order of the pass, and fire the hooks."""
        parts, self._parts = self._parts, []
        parts.reverse()  # each part drops its arrays as soon as it is done
        while parts:
            leaf, part, final = parts.pop()
            if part is not None:
                leaf.accumulate(part)
            if final:
                leaf.fire_hooks()


def backward(
    tensor: Tensor, gradient: Array | Tensor | None = None, weights: WeightGradients | None = None
) -> None:
    """Add the gradients of this tensor to all leaves that it was made from.

    `gradient` is that of the result with respect to this tensor, in its shape; a tensor of one
    element needs none. The history is gone afterwards. With `weights`, parameters get their
    gradients in `weights.run()`; only other leaves (inputs) get theirs at once.
    """
    if not tensor.requires_grad:
        raise RuntimeError("this tensor does not require a gradient: nothing was recorded for it")
    if gradient is None:
        if tensor.data.size != 1:
            raise RuntimeError(f"a tensor of shape {tensor.shape} needs a gradient to start from")
        gradient = xp.ones(tensor.shape, tensor.dtype)
    if isinstance(gradient, Tensor):
        gradient = gradient.data
    refuse_mixture("backward()", (gradient,))
    if gradient.shape != tensor.shape:
        raise ValueError(f"a gradient of shape {gradient.shape} for a tensor of {tensor.shape}")
    if tensor.operation is None:
        tensor.accumulate(gradient)
        tensor.fire_hooks()
        return
    order, consumers = _sort(tensor.operation)
    _Pass(consumers, {tensor.operation: gradient}, weights).run(order)


def nested(root: Tensor, gradient: Array, inputs: Sequence[Tensor]) -> list[Gradient]:
    """The gradients of `inputs`, from within the backward of an operation that ran `root`'s graph.

    Other leaves get theirs as in the surrounding pass: at once, or postponed. Their hooks are not
    fired: they are inputs of that operation too, and the surrounding pass knows when they are
    final.
    """
    if root.operation is not None:
        order, consumers = _sort(root.operation)
        surrounding = _running.passes[-1]
        own = {id(tensor) for tensor in inputs}
        _Pass(consumers, {root.operation: gradient}, surrounding.weights, own).run(order)
    return [tensor.grad for tensor in inputs]


class _Running(threading.local):
    def __init__(self) -> None:
        self.passes: list[_Pass] = []


_running = _Running()


def _sort(root: Operation) -> tuple[list[Operation], dict[int, int]]:
    """The operations, the last that ran first, and how often each leaf is used.

    So every operation comes after all that use its result, and what ran together (a block of a
    model) is together here too, whichever way its results were used later.
    """
    consumers: dict[int, int] = {}
    stack, seen = [root], {root}
    while stack:
        operation = stack.pop()
        if operation.inputs is None:
            raise RuntimeError(
                "the history of this tensor is gone: backward() was already run through it"
            )
        for tensor in operation.inputs:
            source = tensor.operation
            if source is not None:
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
            elif tensor is not UNNEEDED:
                consumers[id(tensor)] = consumers.get(id(tensor), 0) + 1
    return sorted(seen, key=attrgetter("number"), reverse=True), consumers


class _Pass:
    """One backward pass. `gradients` holds those in transit, by the operation they go to.

    `inner` are the inputs of a nested pass, by id; None in a pass that is not nested.
    """

    def __init__(
        self,
        consumers: dict[int, int],
        gradients: dict[Operation, Array],
        weights: WeightGradients | None,
        inner: set[int] | None = None,
    ) -> None:
        self._consumers, self._gradients = consumers, gradients
        self.weights, self._inner = weights, inner
        self._own: set[Operation] = set()  # those whose gradient is this pass's own memory

    def run(self, order: list[Operation]) -> None:
        _running.passes.append(self)
        try:
            for operation in order:
                gradient = self._gradients.pop(operation, None)
                self._own.discard(operation)
                inputs, needs = operation.inputs or (), operation.needs
                if operation.number < changes.latest and gradient is not None:
                    refuse_stale(type(operation).__name__, operation.number, operation.saved())
                # An operation has no gradient when all its consumers returned None.
                parts = [None] * len(inputs) if gradient is None else operation.backward(gradient)
                operation.release()
                self._distribute(inputs, needs, parts)
        finally:
            _running.passes.pop()

    def _distribute(
        self, inputs: Sequence[Tensor | Source], needs: Sequence[bool], parts: Sequence[Any]
    ) -> None:
        """Leaves first: an inner tensor's gradient may still be in transit from other ranks."""
        inner = []
        for tensor, needed, part in zip(inputs, needs, parts, strict=True):
            if not needed:
                continue
            if not isinstance(tensor, Source):
                self._give_leaf(tensor, _fitting(part, tensor))
            elif part is not None:
                inner.append((tensor, part))
        for source, part in inner:
            self._give_inner(source, _fitting(part, source))

    def _give_leaf(self, leaf: Tensor, part: Any) -> None:
        self._consumers[id(leaf)] -= 1
        nested = self._inner is not None
        final = not nested and not self._consumers[id(leaf)]
        is_weight = leaf.is_parameter and id(leaf) not in (self._inner or ())
        if self.weights is not None and is_weight:
            self.weights.append(leaf, part, final)
            return
        if part is not None:
            leaf.accumulate(part)
        if final:
            leaf.fire_hooks()

    def _give_inner(self, tensor: Source, part: Any) -> None:
        target = tensor.operation
        assert target is not None
        held = self._gradients.get(target)
        if not isinstance(part, xp.ndarray):
            if target in self._own:
                part.into(held, add=True)
                return
            part = part.value(tensor.shape, tensor.dtype)
            if held is None:
                self._own.add(target)
        if held is None:
            self._gradients[target] = part
        elif target in self._own:
            xp.add(held, part, out=held)
        else:
            # What an operation returned may be another's input too: the sum gets its own memory.
            self._gradients[target] = xp.asarray(xp.add(held, part))
            self._own.add(target)


def _fitting(part: Any, tensor: Tensor | Source) -> Any:
    """The part in the tensor's shape; NumPy makes scalars of 0-d results."""
    if isinstance(part, xp.ndarray):
        if part.shape == tensor.shape and part.dtype == tensor.dtype:
            return part
        return unbroadcast(part, tensor)
    return unbroadcast(xp.asarray(part), tensor) if isinstance(part, np.generic) else part


def unbroadcast(gradient: Array, tensor: Tensor | Source) -> Array:
    """Sum over the axes along which the tensor was broadcast; the tensor's shape and dtype."""
    shape = tensor.shape
    if gradient.shape != shape:
        extra = gradient.ndim - len(shape)
        axes = tuple(range(extra)) + tuple(
            axis + extra
            for axis, length in enumerate(shape)
            if length == 1 and gradient.shape[axis + extra] != 1
        )
        gradient = xp.asarray(gradient.sum(axis=axes, keepdims=True)).reshape(shape)
    return gradient if gradient.dtype == tensor.dtype else gradient.astype(tensor.dtype)
