"""Stochastic gradient descent."""

from collections.abc import Sequence

from ringlet.nn.backend import xp
from ringlet.nn.flat import Flat
from ringlet.nn.optim.optimizer import Decay, Group, Optimizer, Update, everything

__all__ = ["SGD"]


class SGD(Optimizer):
    """SGD with momentum as PyTorch defines it; weight decay is added to the gradient.

    Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013),
    for `nesterov`.
    """

    STATE: tuple[str, ...] = ("momentum",)

    def __init__(
        self,
        flat: Flat,
        learning_rate: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay: Decay = everything,
        groups: Sequence[Group] = (),
    ) -> None:
        if nesterov and not momentum:
            raise ValueError("Nesterov's method needs a momentum above 0")
        if not momentum:
            self.STATE = ()
        super().__init__(flat, learning_rate, weight_decay, decay, groups)
        self.momentum, self.nesterov = momentum, nesterov

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
