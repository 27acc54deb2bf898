"""Stochastic gradient descent."""

from collections.abc import Sequence
from dataclasses import dataclass

from ringlet.nn.backend import xp
from ringlet.nn.flat import Flat
from ringlet.nn.optim.optimizer import Decay, Group, Optimizer, Update, everything

__all__ = ["SGD"]


@dataclass(eq=False)
class SGD(Optimizer):
    """SGD with momentum as PyTorch defines it; weight decay is added to the gradient.

    Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013),
    for `nesterov`.
    """

    flat: Flat
    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay: Decay = everything
    groups: Sequence[Group] = ()

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("Nesterov's method needs a momentum above 0")
        self.STATE = ("momentum",) if self.momentum else ()
        super().__post_init__()

    def update(self, block: Update) -> None:
        data, (change, other) = block.data, block.scratch
        xp.multiply(data, block.decay, out=change)
        change += block.grad
        if self.momentum:
            (velocity,) = block.state
            velocity *= self.momentum
            velocity += change
            if self.nesterov:
                xp.multiply(velocity, self.momentum, out=other)
                change += other
            else:
                change = velocity
        xp.multiply(change, block.rate, out=other)
        data -= other
