"""Check gradients against finite differences."""

from collections.abc import Callable, Sequence

import numpy as np

from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray, to_host
from ringlet.nn.random import generator

__all__ = ["gradcheck"]


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[Array],
    eps: float = 1e-6,
    atol: float = 1e-7,
    rtol: float = 1e-5,
) -> None:
    """Compare the gradients of `function(*tensors)` with central differences, in float64.

    The result may have any shape: it is weighted with fixed random numbers and summed. Raises
    AssertionError naming the input and its worst element.
    """
    arrays = [np.array(to_host(array), np.float64) for array in inputs]
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    result = function(*tensors)
    weights = generator(0, "gradcheck").standard_normal(result.shape)
    result.backward(asarray(weights.astype(result.dtype)))

    def value() -> float:
        return float((to_host(function(*map(Tensor, arrays)).data) * weights).sum())

    for number, (array, tensor) in enumerate(zip(arrays, tensors, strict=True)):
        expected = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            before = array[place]
            array[place] = before + eps
            above = value()
            array[place] = before - eps
            expected[place] = (above - value()) / (2 * eps)
            array[place] = before
        actual = np.zeros_like(array) if tensor.grad is None else to_host(tensor.grad)
        error = np.abs(actual - expected) - rtol * np.abs(expected)
        if array.size and not error.max() <= atol:
            worst = np.unravel_index(np.argmax(error), array.shape)
            raise AssertionError(
                f"input {number} at {tuple(map(int, worst))}: backward says {actual[worst]:.9g}, "
                f"finite differences {expected[worst]:.9g}"
            )
