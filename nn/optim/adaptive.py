"""Element-wise learning rates from squared gradients: Adagrad and RMSprop."""

from collections.abc import Sequence
from dataclasses import dataclass

from ringlet.nn.backend import xp
from ringlet.nn.flat import Flat
from ringlet.nn.optim.optimizer import Decay, FlatOptimizer, Group, Update, everything
from ringlet.nn.optim.parameters import PyTorch

__all__ = ["Adagrad", "RMSprop"]


@dataclass(eq=False)
class Adagrad(FlatOptimizer):
    """Duchi, Hazan and Singer, "Adaptive subgradient methods" (2011), as PyTorch defines it.

    Weight decay is added to the gradient. `learning_rate_decay` divides the rate by
    1 + (steps - 1) * learning_rate_decay.
    """

    STATE = ("sum",)
    flat: Flat
    learning_rate: float = 1e-2
    learning_rate_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    decay: Decay = everything
    groups: Sequence[Group] = ()

    PYTORCH = PyTorch(
        {
            "lr": 1e-2, "lr_decay": 0, "weight_decay": 0, "initial_accumulator_value": 0,
            "eps": 1e-10,
        },
        fields={"lr_decay": "learning_rate_decay"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.state["sum"].fill(self.initial_accumulator_value)

    def update(self, block: Update) -> None:
        data, (total,), (change, root) = block.data, block.state, block.scratch
        grad = block.decayed_grad(change)
        xp.multiply(grad, grad, out=root)
        total += root
        xp.sqrt(total, out=root)
        root += self.eps
        xp.divide(grad, root, out=change)
        change *= block.rate / (1 + (self.steps - 1) * self.learning_rate_decay)
        data -= change


@dataclass(eq=False)
class RMSprop(FlatOptimizer):
    """Tieleman and Hinton, "Lecture 6.5: rmsprop" (2012), as PyTorch defines it.

    Weight decay is added to the gradient. `centered` divides by the deviation instead of the root
    of the mean square (Graves, "Generating sequences with recurrent neural networks", 2013).
    """

    flat: Flat
    learning_rate: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    decay: Decay = everything
    groups: Sequence[Group] = ()

    PYTORCH = PyTorch(
        {
            "lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0,
            "centered": False,
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        wanted = {"square_avg": True, "grad_avg": self.centered, "momentum": bool(self.momentum)}
        self.STATE = tuple(name for name, kept in wanted.items() if kept)
        super().__post_init__()
        self._decayed = xp.empty(self._scratch.shape[1], self.flat.dtype)

    def update(self, block: Update) -> None:
        data, (square, *others), (change, root) = block.data, block.state, block.scratch
        grad = block.decayed_grad(self._decayed[: len(data)])
        square *= self.alpha
        xp.multiply(grad, grad, out=root)
        root *= 1 - self.alpha
        square += root
        xp.copyto(root, square)
        if self.centered:
            mean = others[0]
            mean *= self.alpha
            xp.multiply(grad, 1 - self.alpha, out=change)
            mean += change
            xp.multiply(mean, mean, out=change)
            root -= change
        xp.sqrt(root, out=root)
        root += self.eps
        xp.divide(grad, root, out=change)
        if self.momentum:
            velocity = others[-1]
            velocity *= self.momentum
            velocity += change
            xp.copyto(change, velocity)
        change *= block.rate
        data -= change
