"""Stochastic gradient descent."""

from collections.abc import Sequence
from dataclasses import dataclass

from ringlet.nn.backend import xp
from ringlet.nn.flat import Flat
from ringlet.nn.optim.optimizer import Decay, FlatOptimizer, Group, Update, everything
from ringlet.nn.optim.parameters import PyTorch

__all__ = ["SGD"]


@dataclass(eq=False)
class SGD(FlatOptimizer):
    """SGD with momentum as PyTorch defines it; weight decay is added to the gradient.

    Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013),
    for `nesterov`. `dampening` scales all gradients but the first that enter the momentum.
    """

    flat: Flat
    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay: Decay = everything
    groups: Sequence[Group] = ()
    dampening: float = 0.0

    PYTORCH = PyTorch(
        {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
        counts=False,
    )

    def __post_init__(self) -> None:
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError("Nesterov's method needs a momentum above 0 and no dampening")
        self.STATE = ("momentum",) if self.momentum else ()
        super().__post_init__()

    def update(self, block: Update) -> None:
        data, (change, other) = block.data, block.scratch
        xp.multiply(data, block.decay, out=change)
        change += block.grad
        if self.momentum:
            (velocity,) = block.state
            velocity *= self.momentum
            if self.dampening and self.steps > 1:
                xp.multiply(change, 1 - self.dampening, out=other)
                velocity += other
            else:
                velocity += change
            if self.nesterov:
                xp.multiply(velocity, self.momentum, out=other)
                change += other
            else:
                change = velocity
        xp.multiply(change, block.rate, out=other)
        data -= other
