"""Sums of products in Einstein's notation: for teaching; the hot paths use matrix products."""

import string
from collections.abc import Sequence

from ringlet.nn.autograd.conversion import of_one_dtype
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, xp

__all__ = ["einsum"]


class Einsum(Operation):
    """np.einsum. An operand's gradient is an einsum of the result's and the other operands."""

    def __init__(self, operands: Sequence[str], result: str) -> None:
        self.labels, self.result = list(operands), result

    def forward(self, *arrays: Array) -> Array:
        self.arrays = arrays
        return xp.asarray(xp.einsum(f"{','.join(self.labels)}->{self.result}", *arrays))

    def backward(self, grad: Array) -> Gradients:
        return [self._gradient(n, grad) if self.needs[n] else None for n in range(len(self.labels))]

    def _gradient(self, number: int, grad: Array) -> Array:
        own, x = self.labels[number], self.arrays[number]
        others = [n for n in range(len(self.labels)) if n != number]
        terms = [self.result, *(self.labels[n] for n in others)]
        unique = "".join(dict.fromkeys(own))
        here = "".join(label for label in unique if any(label in term for term in terms))
        arrays = [grad, *(self.arrays[n] for n in others)]
        part = xp.einsum(f"{','.join(terms)}->{here}", *arrays, optimize=len(arrays) > 2)
        # A label of this operand alone was summed: its elements have the same gradient.
        shape = [1 if label not in here else part.shape[here.index(label)] for label in unique]
        lengths = dict(zip(unique, shape, strict=True))
        for label, length in zip(own, x.shape, strict=True):
            lengths[label] = max(lengths[label], length)  # the engine undoes broadcasting
        result = xp.zeros([lengths[label] for label in own], grad.dtype)
        # A label that appears twice is a diagonal.
        axes = {
            label: [1] * axis + [-1] + [1] * (len(unique) - axis - 1)
            for axis, label in enumerate(unique)
        }
        diagonal = tuple(xp.arange(lengths[label]).reshape(axes[label]) for label in own)
        result[diagonal] = xp.reshape(part, shape)
        return result


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """The sum of products of an equation: einsum("bij,bjk->bik", a, b).

    An ellipsis stands for leading axes, a repeated label for a diagonal. Without "->" the result
    has the labels that appear once, in alphabetical order. Raises ValueError if the operands do
    not match.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ValueError(f"einsum of {equation!r} takes {len(terms)} operands, not {len(operands)}")
    free = [label for label in string.ascii_letters if label not in equation]
    rest = max((x.ndim - _named(t) for t, x in zip(terms, operands, strict=True)), default=0)
    ellipsis = "".join(free[: max(rest, 0)])
    labels = []
    for term, x in zip(terms, operands, strict=True):
        extra = x.ndim - _named(term)
        if extra < 0 or (extra and "..." not in term):
            raise ValueError(f"einsum: {term!r} does not match an operand of shape {x.shape}")
        labels.append(term.replace("...", ellipsis[len(ellipsis) - extra :]))
    if not arrow:
        once = sorted(label for label in set(left) - set(",.") if left.count(label) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    of_one_dtype("einsum", *operands)
    return Einsum(labels, result.replace("...", ellipsis))(*operands)


def _named(term: str) -> int:
    return len(term.replace("...", ""))
