"""What optimizers written by hand compute with."""

from ringlet.nn.autograd.conversion import TensorLike
from ringlet.nn.autograd.operations.arithmetic import add, div, mul, sub
from ringlet.nn.autograd.tensor import Tensor

__all__ = ["addcdiv", "addcmul", "lerp"]


def lerp(input: Tensor, end: TensorLike, weight: TensorLike) -> Tensor:
    """input + weight * (end - input)."""
    return add(input, mul(weight, sub(end, input)))


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    return add(input, _scaled(mul(tensor1, tensor2), value))


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 / tensor2."""
    return add(input, _scaled(div(tensor1, tensor2), value))


def _scaled(x: Tensor, value: float) -> Tensor:
    return x if value == 1 else mul(x, value)
