"""A mixture of experts: many MLPs, a few of which each position uses.

Shazeer et al., "Outrageously large neural networks: the sparsely-gated mixture-of-experts layer"
(2017); Lepikhin et al., "GShard" (2020), for capacity; Fedus, Zoph and Shazeer, "Switch
transformers" (2021), for one expert each and the balance loss.

Everything is counted per sample, in the order of its positions: an expert serves the first
positions that chose it, up to its capacity. So the result does not depend on which samples are
computed together or where, and no position depends on a later one.
"""

import math

import numpy as np

from ringlet.nn.autograd.operations import experts as operations
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.activations import GELU
from ringlet.nn.layers.basic import Dropout, Linear, unset
from ringlet.nn.module import Module
from ringlet.nn.random import loss_scale

__all__ = ["ExpertLinear", "Experts", "MixtureOfExperts"]

ROUNDING = 1e-9
"""1.1 x 10 counts as 11, although the product of the two floats is slightly more."""


class ExpertLinear(Module):
    """A Linear for each expert, on rows that are sorted by expert: (R, in) -> (R, out).

    The parameters are (experts, out, in) and (experts, out).
    """

    adds_bias = True

    def __init__(
        self, experts: int, in_features: int, out_features: int, bias: bool = True
    ) -> None:
        self.weight = unset(experts, out_features, in_features)
        self.bias = unset(experts, out_features) if bias else None
        self.initialize()

    def forward(self, rows: Tensor, counts: Array) -> Tensor:
        """`counts` (experts,) is the number of rows of each expert."""
        own = () if self.bias is None else (self.bias,)
        return operations.ExpertProducts(counts, self.adds_bias)(rows, self.weight, *own)

    def draw(self, name: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Uniform in +- 1 / sqrt(in_features), as for Linear."""
        bound = 1 / math.sqrt(self.weight.shape[2])
        return bound * (2 * random.random(shape, np.float32) - 1)

    def extra_repr(self) -> str:
        experts, out_features, in_features = self.weight.shape
        return f"{experts}, {in_features}, {out_features}, bias={self.bias is not None}"


class Experts(Module):
    """Positions and the router's logits (B, T, C), (B, T, experts) -> (B, T, C).

    Each position's result is the sum of its `top_k` experts' results (the first of equal logits),
    weighted by their gates. While training, an expert serves at most ceil(`capacity_factor` * top_k
    * T / experts) positions of a sample, the earliest; choices beyond that are dropped and add
    nothing, so a position whose choices are all dropped keeps only the residual. With a factor of
    0, and in evaluation, none is dropped.

    `balance` is the weight of the balance loss (see operations.experts.Balance), a mean over
    samples, as the cross-entropy is: the scope's `loss_scale` for each position. Outside a scope
    it is a mean over this call's positions.
    """

    share = 1.0
    """This process's part of the balance loss, where several compute it together."""

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        top_k: int = 2,
        capacity_factor: float = 1.25,
        balance: float = 0.01,
        bias: bool = True,
    ) -> None:
        if not 1 <= top_k <= experts:
            raise ValueError(f"top_k is {top_k}; it must be from 1 to {experts} (the experts)")
        self.experts, self.top_k = experts, top_k
        self.capacity_factor, self.balance = capacity_factor, balance
        self.c_fc = ExpertLinear(experts, width, hidden, bias)
        self.act = GELU("tanh")
        self.c_proj = ExpertLinear(experts, hidden, width, bias)

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        choices = operations.top_indices(logits.data, self.top_k)  # (B, T, k)
        kept = np.ones(choices.shape, bool)
        if self.training:
            kept, logits = self._in_training(choices, logits)
        flat = choices.reshape(-1, self.top_k)  # (N, k)
        routing = operations.Routing.of(flat, kept, self.experts)
        gates = operations.Gates(flat)(logits.reshape(-1, self.experts))
        rows = operations.GatherRows(routing)(x.reshape(-1, x.shape[-1]))
        y = operations.CombineRows(routing)(self.compute(rows, routing.counts), gates)
        return y.reshape(*x.shape)

    def compute(self, rows: Tensor, counts: Array) -> Tensor:
        """The experts' results for their rows: (R, C) -> (R, C)."""
        return self.c_proj(self.act(self.c_fc(rows, counts)), counts)

    def count(self, chosen: Array) -> tuple[Array, Array]:
        """For each choice in `chosen` (B, T, experts), how many earlier positions chose the expert;
        and each sample's total for each expert, (B, experts)."""
        up_to_here = np.cumsum(chosen, axis=1)
        return up_to_here - chosen, chosen.sum(axis=1)

    def _in_training(self, choices: Array, logits: Tensor) -> tuple[Array, Tensor]:
        """Which choices (B, T, k) are kept, and the logits with the balance loss attached."""
        chosen = np.zeros(logits.shape, bool)
        np.put_along_axis(chosen, choices, True, axis=-1)
        before, load = self.count(chosen)
        total = load.sum(axis=1, keepdims=True)  # (B, 1): top_k times the whole length
        kept = np.ones(choices.shape, bool)
        if self.capacity_factor:
            capacity = np.ceil(self.capacity_factor * total / self.experts - ROUNDING)
            kept = np.take_along_axis(before, choices, axis=-1) < capacity[:, None]
        if self.balance and logits.requires_grad:
            fractions = (load / total).astype(logits.dtype)
            scale = loss_scale() or 1 / choices[..., 0].size
            logits = operations.Balance(fractions, self.share * self.balance * scale)(logits)
        return kept, logits

    def extra_repr(self) -> str:
        return (
            f"{self.experts}, top_k={self.top_k}, capacity_factor={self.capacity_factor}, "
            f"balance={self.balance}"
        )


class MixtureOfExperts(Module):
    """A router and its experts instead of an MLP: (B, T, C) -> (B, T, C); see Experts."""

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        top_k: int = 2,
        capacity_factor: float = 1.25,
        balance: float = 0.01,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        self.router = Linear(width, experts, bias=False)
        self.experts = Experts(width, hidden, experts, top_k, capacity_factor, balance, bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.experts(x, self.router(x)))
