"""Clipping: by the norm of all gradients together, or each element by itself."""

import math

import numpy as np

from ringlet.nn.flat import FlatParameters
from ringlet.nn.optim.optimizer import BLOCK
from ringlet.nn.tensor import Array


def grad_norm(grad: Array) -> float:
    """The 2-norm of a flat array; blocks are added in float64, in a fixed order."""
    total = 0.0
    for start in range(0, grad.size, BLOCK):
        block = grad[start : start + BLOCK]
        total += float(np.dot(block, block))
    return math.sqrt(total)


def clip_grad_norm_(flat: FlatParameters, max_norm: float) -> float:
    """Scale all gradients so that their norm is at most `max_norm`; returns the norm before.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013).
    """
    grad = flat.grad
    norm = grad_norm(grad)
    if norm > max_norm:
        grad *= max_norm / (norm + 1e-6)
    return norm


def clip_grad_value_(flat: FlatParameters, clip_value: float) -> None:
    """Bring every element of the gradients into +- clip_value."""
    if clip_value < 0:
        raise ValueError(f"clip_value is {clip_value}; it has to be 0 or more")
    grad = flat.grad
    for start in range(0, grad.size, BLOCK):
        block = grad[start : start + BLOCK]
        np.clip(block, -clip_value, clip_value, out=block)
