"""The operations of a mixture of experts: gates, dispatch, the experts' products, and combine.

Each position chooses `top_k` experts; a choice that is served is a row of the experts' input.
Rows are sorted by expert, so that an expert's work is one product over contiguous rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from ringlet.nn.autograd.deferred import Deferred, Gradients
from ringlet.nn.autograd.operations.products import column_sums
from ringlet.nn.autograd.tensor import Operation, View
from ringlet.nn.backend import Array, asarray, to_host, xp


@dataclass(frozen=True)
class Routing:
    """Which row serves which choice of N positions: R rows, sorted by expert, then by position.

    `rows` (N, k) is each choice's row, -1 where it is dropped; `choices` (R,) is each row's choice,
    below N k; `counts` (experts,) is the number of rows of each expert. All are on the host, which
    must know the sizes of the products.
    """

    rows: Array
    choices: Array
    counts: Array

    @classmethod
    def of(cls, experts: Array, kept: Array, count: int) -> "Routing":
        """From the chosen experts (N, k), which choices are kept, and the number of experts."""
        flat = experts.reshape(-1)
        served = np.flatnonzero(kept)
        choices = served[np.argsort(flat[served], kind="stable")]
        rows = np.full(flat.shape, -1)
        rows[choices] = np.arange(len(choices))
        counts = np.bincount(flat[served], minlength=count)
        return cls(rows.reshape(experts.shape), choices, counts)

    @cached_property
    def positions(self) -> Array:
        """The position (R,) that each row comes from, in the backend's memory."""
        return asarray(self.choices // self.rows.shape[1])

    @cached_property
    def places(self) -> Array:
        """`choices` in the backend's memory."""
        return asarray(self.choices)

    @cached_property
    def served(self) -> list[tuple[Array, Array]]:
        """For each of the k choices, the positions where it is served and their rows."""
        found = [(np.flatnonzero(rows >= 0), rows) for rows in self.rows.T]
        return [(asarray(where), asarray(rows[where])) for where, rows in found]

    def summed(self, values: Array, gates: Array | None = None) -> Array:
        """(R, C) -> (N, C): the sum of each position's rows, times their gates (N, k)."""
        total = xp.zeros((len(self.rows), values.shape[1]), values.dtype)
        for number, (where, rows) in enumerate(self.served):
            part = values[rows]
            if gates is not None:
                part *= gates[where, number, None]
            total[where] += part
        return total


class Gates(Operation):
    """The weights of the chosen experts: logits (N, E) -> (N, k).

    One expert for each position is weighted by its probability among all (Fedus et al., 2021,
    equation 2), or the router would learn nothing; several by their softmax among the chosen
    (Shazeer et al., 2017, equation 3).
    """

    def __init__(self, experts: Array) -> None:
        self.experts, self.among_all = asarray(experts), experts.shape[1] == 1

    def forward(self, logits: Array) -> Array:
        self.shape = logits.shape
        chosen = xp.take_along_axis(logits, self.experts, axis=1)
        self.probabilities = probabilities(logits if self.among_all else chosen)
        if self.among_all:
            return xp.take_along_axis(self.probabilities, self.experts, axis=1)
        return self.probabilities

    def backward(self, grad: Array) -> Gradients:
        p, wide = self.probabilities, xp.zeros(self.shape, grad.dtype)
        if self.among_all:
            xp.put_along_axis(wide, self.experts, grad, axis=1)
            return (softmax_gradient(p, wide),)
        xp.put_along_axis(wide, self.experts, softmax_gradient(p, grad), axis=1)
        return (wide,)


class Balance(View):
    """Logits (B, T, E) as they are; in backward, it adds the gradient of the balance loss.

    So the loss of a layer reaches its parameters from wherever in a model the layer is, without
    passing through the layers after it. Fedus, Zoph and Shazeer, "Switch transformers" (2021),
    section 2.2: E times the sum over the experts of `fractions` (B, E), an expert's part of a
    sample's choices, times its mean probability. `scale` is the weight of one position's loss.
    """

    def __init__(self, fractions: Array, scale: float) -> None:
        self.fractions, self.scale = asarray(fractions), scale

    def forward(self, logits: Array) -> Array:
        self.logits = logits
        return self.logits

    def backward(self, grad: Array) -> Gradients:
        pull = softmax_gradient(probabilities(self.logits), self.fractions[:, None])
        pull *= self.scale * self.fractions.shape[1]
        pull += grad
        return (pull,)


class GatherRows(Operation):
    """Each row's input: (N, C) -> (R, C)."""

    def __init__(self, routing: Routing) -> None:
        self.routing = routing

    def forward(self, x: Array) -> Array:
        return x[self.routing.positions]

    def backward(self, grad: Array) -> Gradients:
        return (self.routing.summed(grad),)


class CombineRows(Operation):
    """Each position's results, weighted by its gates: (R, C), (N, k) -> (N, C).

    A position all of whose choices were dropped gets zeros.
    """

    def __init__(self, routing: Routing) -> None:
        self.routing = routing

    def forward(self, values: Array, gates: Array) -> Array:
        self.values, self.gates = values, gates
        return self.routing.summed(self.values, self.gates)

    def backward(self, grad: Array) -> Gradients:
        routing = self.routing
        spread = grad[routing.positions]  # (R, C)
        to_gates = xp.zeros(self.gates.shape, grad.dtype)
        to_gates.reshape(-1)[routing.places] = xp.einsum("rc,rc->r", spread, self.values)
        spread *= self.gates.reshape(-1)[routing.places, None]
        return spread, to_gates


class ExpertWeightGradient(Deferred):
    """Each expert's product over its rows: (R, out), (R, in) -> (E, out, in)."""

    def __init__(self, left: Array, right: Array, counts: Array) -> None:
        self._left, self._right, self._counts = left, right, counts

    def into(self, out: Array, add: bool) -> None:
        for target, rows in zip(out, segments(self._counts), strict=True):
            left, right = self._left[rows].T, self._right[rows]
            if add:
                target += xp.matmul(left, right)
            else:
                xp.matmul(left, right, out=target)


class ExpertProducts(Operation):
    """rows @ weight[e].T + bias[e] for each expert's rows.

    (R, in), (E, out, in), (E, out) -> (R, out), with the rows sorted by expert and `counts` (E,)
    of each. Without `adds_bias` another process adds the bias; its gradient is computed anyway.
    """

    def __init__(self, counts: Array, adds_bias: bool) -> None:
        self.counts, self.adds_bias = counts, adds_bias

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.x, self.weight = x, weight
        result = xp.empty((len(self.x), self.weight.shape[1]), self.x.dtype)
        for expert, rows in enumerate(segments(self.counts)):
            xp.matmul(self.x[rows], self.weight[expert].T, out=result[rows])
            if bias is not None and self.adds_bias:
                result[rows] += bias[expert]
        return result

    def backward(self, grad: Array) -> Gradients:
        to_x, to_weight = None, None
        if self.needs[0]:
            to_x = xp.empty(self.x.shape, grad.dtype)
            for expert, rows in enumerate(segments(self.counts)):
                xp.matmul(grad[rows], self.weight[expert], out=to_x[rows])
        if self.needs[1]:
            to_weight = ExpertWeightGradient(grad, self.x, self.counts)
        if len(self.needs) == 2:
            return to_x, to_weight
        sums = [column_sums(grad[rows]) for rows in segments(self.counts)]
        return to_x, to_weight, xp.stack(sums)


def segments(counts: Array) -> Iterator[slice]:
    """Each expert's rows."""
    for start, stop in pairwise([0, *np.cumsum(counts).tolist()]):
        yield slice(start, stop)


def probabilities(logits: Array) -> Array:
    """Softmax over the last axis."""
    exp = xp.exp(logits - logits.max(axis=-1, keepdims=True))
    exp /= exp.sum(axis=-1, keepdims=True)
    return exp


def softmax_gradient(p: Array, grad: Array) -> Array:
    """The gradient of the logits of `p`, from that of `p`."""
    return p * (grad - (p * grad).sum(axis=-1, keepdims=True))


def top_indices(logits: Array, count: int) -> Array:
    """The indices of the largest along the last axis, in falling order; the first of equal ones.

    On the host, which fetches the logits if they are on a device.
    """
    order = np.argsort(-to_host(logits), axis=-1, kind="stable")
    return order[..., :count]
