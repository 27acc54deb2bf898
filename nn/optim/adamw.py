"""Adam with decoupled weight decay."""

import math

import numpy as np

from ringlet.nn.flat import Flat
from ringlet.nn.optim.optimizer import Decay, Optimizer, matrices
from ringlet.nn.tensor import Array


class AdamW(Optimizer):
    """Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2.

    `decay(name, parameter)` says which parameters decay; by default those of two or more axes.
    """

    STATE = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        flat: Flat,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decay: Decay = matrices,
    ) -> None:
        super().__init__(flat, learning_rate, weight_decay, decay)
        self.betas, self.eps = betas, eps

    def begin(self) -> None:
        """The bias corrections of this step."""
        beta1, beta2 = self.betas
        self._step_size = self.learning_rate / (1 - beta1**self.steps)
        self._root_correction = 1 / math.sqrt(1 - beta2**self.steps)

    def update(
        self, data: Array, grad: Array, decay: float, state: list[Array], scratch: Array
    ) -> None:
        """See Optimizer."""
        mean, square = state
        change, root = scratch
        beta1, beta2 = self.betas
        if decay:
            data *= 1 - self.learning_rate * decay
        mean *= beta1
        np.multiply(grad, 1 - beta1, out=change)
        mean += change
        square *= beta2
        np.multiply(grad, grad, out=change)
        change *= 1 - beta2
        square += change
        np.sqrt(square, out=root)
        root *= self._root_correction
        root += self.eps
        np.divide(mean, root, out=change)
        change *= self._step_size
        data -= change
