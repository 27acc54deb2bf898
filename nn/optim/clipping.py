"""Gradient clipping: by the norm of all gradients, or element by element."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray, block_size, to_host, xp
from ringlet.nn.flat import FlatParameters

__all__ = ["clip_grad_norm_", "clip_grad_value_", "grad_norm"]

BLOCK = 32 * 1024
"""Elements whose squares are added at once; the same on all machines, as the sum's bits depend on
it."""


def grad_norm(grad: Array) -> float:
    """The 2-norm of a flat array; blocks are added in float64, in a fixed order."""
    return math.sqrt(sums_of_squares([grad])[0])


def sums_of_squares(arrays: Sequence[Array]) -> list[float]:
    """Each flat array's sum of squares; blocks are added in float64, in a fixed order.

    The host fetches the sums of all blocks from a device at once.
    """
    step = block_size(BLOCK)
    parts = [
        [xp.dot(array[n : n + step], array[n : n + step]) for n in range(0, array.size, step)]
        for array in arrays
    ]
    sums = [part for each in parts for part in each]
    values = iter(to_host(xp.stack(sums)).tolist() if sums else ())
    return [sum(itertools.islice(values, len(each))) for each in parts]


Parameters: TypeAlias = FlatParameters | Tensor | Iterable[Tensor]


def clip_grad_norm_(
    parameters: Parameters,
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Any:
    """Scale all gradients so that their norm is at most `max_norm`; returns the norm before: a
    number for flat parameters, a 0-d tensor for others.

    Raises RuntimeError for a norm that is not finite if `error_if_nonfinite`. `foreach` is
    PyTorch's and says how it computes. Pascanu, Mikolov and Bengio, "On the difficulty of training
    recurrent neural networks" (2013).
    """
    grads = _gradients(parameters)
    norm = _norm(grads, float(norm_type))
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is non-finite: {norm}")
    if norm > max_norm:
        for grad in grads:
            grad *= max_norm / (norm + 1e-6)
    if isinstance(parameters, FlatParameters):
        return norm
    return Tensor(asarray(norm, grads[0].dtype if grads else np.float32))


def clip_grad_value_(
    parameters: Parameters, clip_value: float, foreach: bool | None = None
) -> None:
    """Limit every element of the gradients to +- clip_value."""
    if clip_value < 0:
        raise ValueError(f"clip_value is {clip_value}; it must not be negative")
    for grad in _gradients(parameters):
        xp.clip(grad, -clip_value, clip_value, out=grad)


def _gradients(parameters: Parameters) -> list[Array]:
    """The gradients that are there; those of flat parameters as one array."""
    if isinstance(parameters, FlatParameters):
        return [parameters.grad]
    each = [parameters] if isinstance(parameters, Tensor) else parameters
    grads = [parameter.grad for parameter in each if parameter.has_grad]
    return [grad for grad in grads if grad is not None]


def _norm(grads: Sequence[Array], kind: float) -> float:
    """The norm of all elements together."""
    if kind == 2:
        return math.sqrt(sum(sums_of_squares([grad.reshape(-1) for grad in grads])))
    sizes = [xp.abs(grad).astype(np.float64) for grad in grads if grad.size]
    if kind == math.inf:
        return max((float(size.max()) for size in sizes), default=0.0)
    return float(sum(float((size**kind).sum()) for size in sizes) ** (1 / kind))
