"""Adam, with weight decay in the gradient or decoupled from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ringlet.nn.backend import Array, xp
from ringlet.nn.flat import Flat
from ringlet.nn.optim.optimizer import Decay, FlatOptimizer, Group, Update, everything, matrices
from ringlet.nn.optim.parameters import PyTorch

__all__ = ["Adam", "AdamW"]


class Moments:
    """What Adam keeps of the gradients: running means of them and of their squares."""

    NAMES = ("exp_avg", "exp_avg_sq")
    """Names in the state; AMSGrad has a third array."""

    LARGEST = "max_exp_avg_sq"

    def __init__(self, betas: tuple[float, float], eps: float) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas are {betas}; they must be at least 0 and below 1")
        self.betas, self.eps = betas, eps

    def begin(self, steps: int) -> None:
        """The bias corrections of this step."""
        beta1, beta2 = self.betas
        root = math.sqrt(1 - beta2**steps)
        # mean / (1 - beta1^t) / (sqrt(square) / root + eps), with the roots taken out
        self._correction = root / (1 - beta1**steps)
        self._eps = self.eps * root

    def step(self, block: Update, grad: Array) -> None:
        """Update the means with the gradient, and move the parameters.

        A third array in the state is the largest mean of squares so far, and divides (Reddi, Kale
        and Kumar, "On the convergence of Adam and beyond", 2018, algorithm 2).
        """
        data, (mean, square, *largest) = block.data, block.state
        change, root = block.scratch
        beta1, beta2 = self.betas
        mean *= beta1
        xp.multiply(grad, 1 - beta1, out=change)
        mean += change
        square *= beta2
        xp.multiply(grad, grad, out=change)
        change *= 1 - beta2
        square += change
        if largest:
            square = xp.maximum(largest[0], square, out=largest[0])
        xp.sqrt(square, out=root)
        root += self._eps
        xp.divide(mean, root, out=change)
        change *= block.rate * self._correction
        data -= change


@dataclass(eq=False)
class Adam(FlatOptimizer):
    """Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Weight decay is added to the gradient, as in PyTorch; AdamW decouples it. `amsgrad`: see
    Moments.step.
    """

    flat: Flat
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay: Decay = everything
    groups: Sequence[Group] = ()
    amsgrad: bool = False

    PYTORCH = PyTorch(
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    )

    def __post_init__(self) -> None:
        self.STATE = (*Moments.NAMES, Moments.LARGEST) if self.amsgrad else Moments.NAMES
        super().__post_init__()
        self.moments = Moments(self.betas, self.eps)
        self._decayed = xp.empty(self._scratch.shape[1], self.flat.dtype)

    def begin(self) -> None:
        self.moments.begin(self.steps)

    def update(self, block: Update) -> None:
        self.moments.step(block, block.decayed_grad(self._decayed[: len(block.grad)]))


@dataclass(eq=False)
class AdamW(Adam):
    """Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2.

    `decay(name, parameter)` says which parameters decay; by default those of two or more axes.
    """

    weight_decay: float = 0.01
    decay: Decay = matrices

    PYTORCH = PyTorch({**Adam.PYTORCH.options, "weight_decay": 1e-2})

    def update(self, block: Update) -> None:
        block.decay_data()
        self.moments.step(block, block.grad)
