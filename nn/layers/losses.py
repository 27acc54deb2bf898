"""Losses as modules."""

from typing import Literal, TypeAlias

from ringlet.nn import functional as F
from ringlet.nn.module import Module
from ringlet.nn.tensor import Array, Tensor

Reduction: TypeAlias = Literal["mean", "sum", "none"]


class CrossEntropyLoss(Module):
    """-log softmax(logits)[target] in nats: (..., V), (...) -> (); or targets are probabilities
    (..., V).

    `weight` (V,) weighs the classes; it is no parameter.
    """

    def __init__(
        self,
        weight: Array | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        self.weight, self.ignore_index = weight, ignore_index
        self.reduction: Reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(
        self, logits: Tensor, targets: Tensor | Array, reduction: Reduction | None = None
    ) -> Tensor:
        """See functional.cross_entropy; `reduction` takes the place of the module's own."""
        options = (self.ignore_index, reduction or self.reduction, self.label_smoothing)
        return F.cross_entropy(logits, targets, self.weight, *options)

    def describe(self) -> str:
        """See Module."""
        return f"label_smoothing={self.label_smoothing}" if self.label_smoothing else ""
