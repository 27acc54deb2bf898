"""Lion: the sign of an interpolated momentum."""

from collections.abc import Sequence

from ringlet.nn.backend import Array, xp
from ringlet.nn.flat import Flat
from ringlet.nn.optim.optimizer import Decay, Group, Optimizer, matrices


class Lion(Optimizer):
    """Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2.

    Weight decay is decoupled. The authors take a learning rate 3 to 10 times smaller than
    AdamW's, and a decay that much larger.
    """

    STATE = ("exp_avg",)

    def __init__(
        self,
        flat: Flat,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        decay: Decay = matrices,
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(flat, learning_rate, weight_decay, decay, groups)
        self.betas = betas

    def update(
        self,
        data: Array,
        grad: Array,
        rate: float,
        decay: float,
        state: list[Array],
        scratch: Array,
    ) -> None:
        """See Optimizer."""
        (mean,) = state
        change, other = scratch
        beta1, beta2 = self.betas
        if decay:
            data *= 1 - rate * decay
        xp.multiply(mean, beta1, out=change)
        xp.multiply(grad, 1 - beta1, out=other)
        change += other
        xp.sign(change, out=change)
        change *= rate
        data -= change
        mean *= beta2
        xp.multiply(grad, 1 - beta2, out=other)
        mean += other
