"""Modules' backward hooks: marks around a module report the gradients that pass them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.tensor import Tensor, View
from ringlet.nn.backend import Array

HookGradients: TypeAlias = tuple[Array | None, ...]


class Mark(View):
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
        return self._mark(value, self._inputs, 1)

    def leave(self, value: Any) -> Any:
        return self._mark(value, self._outputs, 0)

    def _mark(self, value: Any, gradients: list[Array | None], awaited: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        gradients.append(None)
        if not value.requires_grad:
            return value
        number = len(gradients) - 1
        self._missing += awaited

        def report(grad: Array) -> None:
            gradients[number] = grad
            self._missing -= awaited
            if not self._missing:  # an output's comes last where no input needs a gradient
                self._hook(tuple(self._inputs), tuple(self._outputs))

        return Mark(report)(value)


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
