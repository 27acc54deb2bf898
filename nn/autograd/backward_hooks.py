"""Modules' backward hooks: marks around a module report the gradients that pass them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array

HookGradients: TypeAlias = tuple[Array | None, ...]


class Mark(Operation):
    """A tensor as it is; in backward, reports its gradient."""

    def __init__(self, report: Callable[[Array], None]) -> None:
        self.report = report

    def forward(self, x: Array) -> Array:
        return x

    def backward(self, grad: Array) -> Gradients:
        self.report(grad)
        return (grad,)


class _Call:
    """One call of a module, and which of its gradients have passed."""

    def __init__(self, hook: Callable[[HookGradients, HookGradients], None]) -> None:
        self._hook = hook
        self._inputs: list[Array | None] = []
        self._outputs: list[Array | None] = []
        self._missing = 0

    def enter(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        self._inputs.append(None)
        if not value.requires_grad:
            return value
        self._missing += 1
        number = len(self._inputs) - 1

        def report(grad: Array) -> None:
            self._inputs[number] = grad
            self._missing -= 1
            if not self._missing:
                self._hook(tuple(self._inputs), tuple(self._outputs))

        return Mark(report)(value)

    def leave(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        self._outputs.append(None)
        number = len(self._outputs) - 1

        def report(grad: Array) -> None:
            self._outputs[number] = grad
            if not self._missing:  # no input needs a gradient
                self._hook(tuple(self._inputs), tuple(self._outputs))

        return Mark(report)(value) if value.requires_grad else value


def watch_backward(
    run: Callable[..., Any],
    args: Sequence[Any],
    hook: Callable[[HookGradients, HookGradients], None],
) -> Any:
    """`run(*args)`, between marks; in backward `hook(grad_inputs, grad_outputs)` is called."""
    call = _Call(hook)
    result = run(*[call.enter(value) for value in args])
    if isinstance(result, tuple):
        return tuple(call.leave(value) for value in result)
    return call.leave(result)
