"""Modules' backward hooks: marks around a module tell when gradients pass."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ringlet.nn.autograd.tensor import Array, Gradient, Operation, Tensor

if TYPE_CHECKING:
    from ringlet.nn.module import Module


class Mark(Operation):
    """A tensor as it is; in backward, tells its gradient."""

    def __init__(self, tell: Callable[[Array], None]) -> None:
        self.tell = tell

    def forward(self, x: Array) -> Array:
        return x

    def backward(self, grad: Array) -> Sequence[Gradient]:
        self.tell(grad)
        return (grad,)


class _Passage:
    """One call of a module: which gradients have passed."""

    def __init__(self, module: "Module", hooks: Sequence[Callable[..., None]]) -> None:
        self._module, self._hooks = module, hooks
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
        place = len(self._inputs) - 1

        def tell(grad: Array) -> None:
            self._inputs[place] = grad
            self._missing -= 1
            if not self._missing:
                self._call()

        return Mark(tell)(value)

    def leave(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        self._outputs.append(None)
        place = len(self._outputs) - 1

        def tell(grad: Array) -> None:
            self._outputs[place] = grad
            if not self._missing:  # no input wants a gradient
                self._call()

        return Mark(tell)(value) if value.requires_grad else value

    def _call(self) -> None:
        for hook in self._hooks:
            hook(self._module, tuple(self._inputs), tuple(self._outputs))


def watch_backward(
    module: "Module",
    hooks: Sequence[Callable[..., None]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run the module between marks."""
    passage = _Passage(module, hooks)
    args = tuple(passage.enter(value) for value in args)
    result = module._run(*args, **kwargs)
    if isinstance(result, tuple):
        return tuple(passage.leave(value) for value in result)
    return passage.leave(result)
