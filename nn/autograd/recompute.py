"""Recomputation: discard what a forward pass kept for backward, and compute it again there.

Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost" (2016).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ringlet.nn import random
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.engine import nested
from ringlet.nn.autograd.grad_mode import enable_grad, no_grad
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array

__all__ = ["checkpoint"]


class Recompute(Operation):
    """A function of tensors that keeps nothing but its inputs.

    The parameters are inputs too, so that the surrounding pass knows when their gradients are
    final. Random masks depend on the scope and not on the moment, so the second forward pass
    computes the same bits as the first.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        arguments: Sequence[Any],
        parameters: Sequence[Tensor],
    ) -> None:
        self.function, self.parameters, self.scope = function, parameters, random.current()
        self.arguments = [
            Tensor(x.data, requires_grad=x.requires_grad) if isinstance(x, Tensor) else x
            for x in arguments
        ]

    def forward(self, *inputs: Array) -> Array:
        with no_grad():
            return self.function(*self.arguments).data

    def backward(self, grad: Array) -> Gradients:
        with self.scope, enable_grad():
            result = self.function(*self.arguments)
        inputs = [argument for argument in self.arguments if isinstance(argument, Tensor)]
        gradients = nested(result, grad, inputs)
        return [*gradients, *[None] * (len(self.inputs or ()) - len(inputs))]


class HasParameters(Protocol):
    """What is recomputed: a module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute it."""

    def parameters(self) -> Iterable[Tensor]:
        """What it learns."""


def checkpoint(
    module: HasParameters, *arguments: Any, forward: Callable[..., Tensor] | None = None
) -> Tensor:
    """`module(*arguments)`, computed again in backward instead of kept until then.

    The result is one tensor; its bits and those of all gradients are the same as without
    recomputation. Peak memory falls by what the module's operations keep, and time grows by its
    forward pass. `forward` is called with the arguments, by default the module.
    """
    inputs = [argument for argument in arguments if isinstance(argument, Tensor)]
    parameters = tuple(module.parameters())
    return Recompute(forward or module, arguments, parameters)(*inputs, *parameters)
