"""Losses as modules."""

from typing import Any

from ringlet.nn import functional as F
from ringlet.nn.autograd.operations.loss import Reduction
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.basic import Linear
from ringlet.nn.module import Module

__all__ = ["CrossEntropyLoss"]


class LogitsLoss(Module):
    """A loss of logits that can compute the logits itself, a block of rows at a time.

    Called with (logits, targets, reduction), or with (x, targets, reduction, layer) if
    `fuses(layer)`: then the logits are `layer(x)`.
    """

    layer_kind: type[Module] = Linear

    def fuses(self, layer: Module) -> bool:
        """Whether it can replace this layer, and no hook needs the layer or the logits."""
        return type(layer) is self.layer_kind and not (layer.is_watched or self.is_watched)


class CrossEntropyLoss(LogitsLoss):
    """-log softmax(logits)[target] in nats: (..., V), (...) -> (); or with probabilities (..., V)
    as targets.

    `weight` (V,) are the classes' weights; it is not a parameter.
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
        self,
        logits: Tensor,
        targets: Tensor | Array,
        reduction: Reduction | None = None,
        layer: Linear | None = None,
    ) -> Tensor:
        """functional.cross_entropy, or with a layer functional.linear_cross_entropy; `reduction`
        replaces the module's own."""
        options: dict[str, Any] = {
            "weight": self.weight,
            "ignore_index": self.ignore_index,
            "reduction": reduction or self.reduction,
            "label_smoothing": self.label_smoothing,
        }
        if layer is None:
            return F.cross_entropy(logits, targets, **options)
        own = layer.weight, targets
        return F.linear_cross_entropy(logits, *own, linear_bias=layer.bias, **options)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}" if self.label_smoothing else ""
