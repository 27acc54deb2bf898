"""Losses as modules."""

from collections.abc import Callable
from typing import Any

from ringlet.nn import functional as F
from ringlet.nn.autograd.operations.loss import Reduction
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.basic import Linear
from ringlet.nn.module import Module

__all__ = [
    "BCEWithLogitsLoss", "CrossEntropyLoss", "KLDivLoss", "MSELoss", "NLLLoss",
    "TokenCrossEntropyLoss",
]  # fmt: skip


class LogitsLoss(Module):
    """A loss of logits that can compute the logits itself, a block of rows at a time.

    Called with (logits, targets, reduction), or with (x, targets, reduction, layer) if
    `fuses(layer)`: then the logits are `layer(x)`.
    """

    layer_kind: type[Module] = Linear

    def fuses(self, layer: Module) -> bool:
        """Whether it can replace this layer, and no hook needs the layer or the logits."""
        return type(layer) is self.layer_kind and not (layer.is_watched or self.is_watched)


class TokenCrossEntropyLoss(LogitsLoss):
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
        """functional.token_cross_entropy, or with a layer linear_cross_entropy; `reduction`
        replaces the module's own."""
        options: dict[str, Any] = {
            "weight": self.weight,
            "ignore_index": self.ignore_index,
            "reduction": reduction or self.reduction,
            "label_smoothing": self.label_smoothing,
        }
        if layer is None:
            return F.token_cross_entropy(logits, targets, **options)
        own = layer.weight, targets
        return F.linear_cross_entropy(logits, *own, linear_bias=layer.bias, **options)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}" if self.label_smoothing else ""


class _Loss(Module):
    """A function of (input, target), with the options that it is made with."""

    function: Callable[..., Tensor]

    def __init__(self, **options: Any) -> None:
        self.options = options

    def forward(self, input: Tensor, target: Tensor | Array) -> Tensor:
        return type(self).function(input, target, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class CrossEntropyLoss(_Loss):
    """functional.cross_entropy: (N, C, ...), (N, ...) -> ()."""

    function = staticmethod(F.cross_entropy)

    def __init__(
        self,
        weight: Tensor | Array | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        super().__init__(weight=weight, reduction=reduction, **options)


class NLLLoss(_Loss):
    """functional.nll_loss: (N, C, ...), (N, ...) -> ()."""

    function = staticmethod(F.nll_loss)

    def __init__(
        self,
        weight: Tensor | Array | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)


class MSELoss(_Loss):
    """functional.mse_loss: two tensors of one shape -> ()."""

    function = staticmethod(F.mse_loss)

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)


class KLDivLoss(_Loss):
    """functional.kl_div: two tensors of one shape -> ()."""

    function = staticmethod(F.kl_div)

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction=reduction, log_target=log_target)


class BCEWithLogitsLoss(_Loss):
    """functional.binary_cross_entropy_with_logits: two tensors of one shape -> ()."""

    function = staticmethod(F.binary_cross_entropy_with_logits)

    def __init__(
        self,
        weight: Tensor | Array | None = None,
        reduction: Reduction = "mean",
        pos_weight: Tensor | Array | None = None,
    ) -> None:
        super().__init__(weight=weight, reduction=reduction, pos_weight=pos_weight)
