"""The backward pass: from a result to its leaves, each operation once, in an order that has
every gradient complete before it is passed on."""

from typing import Any, Protocol

import numpy as np

from ringlet.nn.tensor import Array, Operation, Tensor


class Deferred(Protocol):
    """A gradient that is computed where it is wanted: straight into a parameter's memory."""

    def into(self, out: Array, add: bool) -> None:
        """Write the gradient to `out`, or add it."""


class Product:
    """A gradient that is a matrix product, `left @ right`."""

    def __init__(self, left: Array, right: Array) -> None:
        self._left, self._right = left, right

    def into(self, out: Array, add: bool) -> None:
        """See Deferred."""
        if add:
            np.add(out, np.matmul(self._left, self._right), out=out)
        else:
            np.matmul(self._left, self._right, out=out)


def backward(root: Tensor, gradient: Array | None = None) -> None:
    """Add the gradients of `root` to the leaves it was made from; see Tensor.backward."""
    if not root.requires_grad:
        raise RuntimeError("this tensor does not require a gradient: nothing was recorded for it")
    if gradient is None:
        if root.size != 1:
            raise RuntimeError(f"a tensor of shape {root.shape} needs a gradient to start from")
        gradient = np.ones(root.shape, root.dtype)
    elif gradient.shape != root.shape:
        raise ValueError(f"a gradient of shape {gradient.shape} for a tensor of {root.shape}")
    order, consumers = _plan(root)
    if root.operation is None:
        root.accumulate(gradient)
        root.fire_hooks()
        return
    _Pass(consumers, {root.operation: gradient}).run(order)


def _plan(root: Tensor) -> tuple[list[Operation], dict[int, int]]:
    """The operations, each after all that use its result, and how often each leaf is used."""
    order: list[Operation] = []
    consumers: dict[int, int] = {}
    seen: set[Operation] = set()
    stack: list[tuple[Operation, bool]] = [(root.operation, False)] if root.operation else []
    while stack:
        operation, expanded = stack.pop()
        if expanded:
            order.append(operation)
            continue
        if operation in seen:
            continue
        seen.add(operation)
        if operation.inputs is None:
            raise RuntimeError(
                "the history of this tensor is gone: backward() was already run through it"
            )
        stack.append((operation, True))
        for tensor in operation.inputs:
            if tensor.operation is not None:
                stack.append((tensor.operation, False))
            elif tensor.requires_grad:
                consumers[id(tensor)] = consumers.get(id(tensor), 0) + 1
    order.reverse()
    return order, consumers


class _Pass:
    """One backward pass. `gradients` holds those on their way, by the operation they go to."""

    def __init__(self, consumers: dict[int, int], gradients: dict[Operation, Array]) -> None:
        self._consumers, self._gradients = consumers, gradients
        self._own: set[Operation] = set()  # whose gradient is this pass's own memory

    def run(self, order: list[Operation]) -> None:
        for operation in order:
            gradient = self._gradients.pop(operation, None)
            self._own.discard(operation)
            inputs, needs = operation.inputs or (), operation.needs
            # An operation can be without a gradient when all its consumers returned None.
            parts = [None] * len(inputs) if gradient is None else operation.backward(gradient)
            operation.release()
            for tensor, needed, part in zip(inputs, needs, parts, strict=True):
                if needed:
                    self._give(tensor, part)

    def _give(self, tensor: Tensor, part: Any) -> None:
        if isinstance(part, np.ndarray | np.generic):  # NumPy makes scalars of 0-d results
            part = unbroadcast(np.asarray(part), tensor)
        if tensor.operation is None:
            self._give_leaf(tensor, part)
        elif part is not None:
            self._give_inner(tensor, part)

    def _give_leaf(self, leaf: Tensor, part: Any) -> None:
        if part is not None:
            leaf.accumulate(part)
        self._consumers[id(leaf)] -= 1
        if not self._consumers[id(leaf)]:
            leaf.fire_hooks()

    def _give_inner(self, tensor: Tensor, part: Any) -> None:
        target = tensor.operation
        assert target is not None
        if not isinstance(part, np.ndarray):
            deferred, part = part, np.empty(tensor.shape, tensor.dtype)
            deferred.into(part, add=False)
        held = self._gradients.get(target)
        if held is None:
            self._gradients[target] = part
        elif target in self._own:
            np.add(held, part, out=held)
        else:
            # What an operation returned may be another's input too: the sum gets its own memory.
            self._gradients[target] = np.asarray(np.add(held, part))
            self._own.add(target)


def unbroadcast(gradient: Array, tensor: Tensor) -> Array:
    """Sum over the axes along which the tensor was broadcast; the tensor's shape and dtype."""
    shape = tensor.shape
    if gradient.shape != shape:
        extra = gradient.ndim - len(shape)
        axes = tuple(range(extra)) + tuple(
            axis + extra
            for axis, length in enumerate(shape)
            if length == 1 and gradient.shape[axis + extra] != 1
        )
        gradient = np.asarray(gradient.sum(axis=axes, keepdims=True)).reshape(shape)
    return gradient if gradient.dtype == tensor.dtype else gradient.astype(tensor.dtype)
