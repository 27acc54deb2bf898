"""Lion: the sign of an interpolated momentum."""

from collections.abc import Sequence
from dataclasses import dataclass

from ringlet.nn.backend import xp
from ringlet.nn.flat import Flat
from ringlet.nn.optim.optimizer import Decay, FlatOptimizer, Group, Update, matrices
from ringlet.nn.optim.parameters import PyTorch

__all__ = ["Lion"]


@dataclass(eq=False)
class Lion(FlatOptimizer):
    """Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2.

    Weight decay is decoupled. The authors take a learning rate 3 to 10 times smaller than
    AdamW's, and a decay that much larger.
    """

    STATE = ("exp_avg",)
    flat: Flat
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    decay: Decay = matrices
    groups: Sequence[Group] = ()

    PYTORCH = PyTorch({"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0})

    def update(self, block: Update) -> None:
        data, grad, (mean,), (change, other) = block.data, block.grad, block.state, block.scratch
        beta1, beta2 = self.betas
        block.decay_data()
        xp.multiply(mean, beta1, out=change)
        xp.multiply(grad, 1 - beta1, out=other)
        change += other
        xp.sign(change, out=change)
        change *= block.rate
        data -= change
        mean *= beta2
        xp.multiply(grad, 1 - beta2, out=other)
        mean += other
