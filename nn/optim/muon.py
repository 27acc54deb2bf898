"""Muon: momentum, orthogonalized matrix by matrix before the step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ringlet.nn.autograd.conversion import in_dtype
from ringlet.nn.backend import Array, xp
from ringlet.nn.flat import Flat, Slot
from ringlet.nn.module import Parameter
from ringlet.nn.optim.adam import Moments
from ringlet.nn.optim.optimizer import Decay, Group, Update, everything, matrices
from ringlet.nn.optim.parameters import PyTorch
from ringlet.nn.optim.whole import WholeParameters

__all__ = ["Muon", "hidden_matrices", "orthogonalized"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""The quintic iteration's; they raise small singular values fast, to between 0.7 and 1.2."""

TABLES = ("wte", "wpe", "lm_head", "embed", "shared", "relative_attention_bias")
"""Parts of the names of embeddings and heads, whose rows are used unevenly: Adam updates them."""


def hidden_matrices(name: str, parameter: Parameter) -> bool:
    """Matrices other than embeddings and heads, by their names."""
    return matrices(name, parameter) and not any(part in name for part in TABLES)


@dataclass(eq=False)
class Muon(WholeParameters):
    """Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).

    `whole(name, parameter)` says which parameters Muon updates; AdamW with `betas` and `eps`
    updates the others. "match_rms_adamw" scales a step to the size of AdamW's, so that one
    learning rate serves both (Liu et al., "Muon is scalable for LLM training", 2025); "original"
    (or None) by sqrt(max(1, rows / columns)). Weight decay is decoupled.
    """

    STATE = Moments.NAMES
    flat: Flat
    learning_rate: float = 1e-3
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.1
    ns_steps: int = 5
    adjust: Literal["match_rms_adamw", "original"] | None = "match_rms_adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    whole: Callable[[str, Parameter], bool] = hidden_matrices
    decay: Decay = matrices
    groups: Sequence[Group] = ()
    ns_coefficients: tuple[float, float, float] = COEFFICIENTS
    ns_eps: float = 1e-7

    PYTORCH = PyTorch(
        {
            "lr": 1e-3, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True,
            "ns_coefficients": COEFFICIENTS, "eps": 1e-7, "ns_steps": 5, "adjust_lr_fn": None,
        },
        fields={"eps": "ns_eps", "adjust_lr_fn": "adjust"},
        counts=False,
        fixed={"whole": everything},
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.adjust not in ("match_rms_adamw", "original", None):
            raise ValueError(
                f"adjust is {self.adjust!r}; it must be 'match_rms_adamw' or 'original'"
            )
        for slot in self.flat.slots:
            if self.whole is everything and slot.parameter.ndim != 2:
                raise ValueError(
                    f"Muon only supports 2D parameters, and there is one of shape {slot.shape}"
                )
        self.moments = Moments(self.betas, self.eps)
        super().__post_init__()

    def whole_slots(self) -> Sequence[Slot]:
        return [slot for slot in self.flat.slots if self.whole(slot.name, slot.parameter)]

    def parts(self, slot: Slot) -> dict[str, Array]:
        return {"momentum_buffer": super().parts(slot)["exp_avg"]}

    def begin(self) -> None:
        self.moments.begin(self.steps)

    def update(self, block: Update) -> None:
        """As AdamW does."""
        block.decay_data()
        self.moments.step(block, block.grad)

    def update_whole(self, whole: Update) -> None:
        data, grad = whole.data, whole.grad
        mean = whole.state[0].reshape(data.shape)
        mean += (1 - self.momentum) * (grad - mean)
        wanted = grad + self.momentum * (mean - grad) if self.nesterov else mean
        change = orthogonalized(wanted, self.ns_steps, self.ns_eps, self.ns_coefficients)
        whole.decay_data()
        rows, columns = data.shape[-2:]
        scale = 0.2 * math.sqrt(max(rows, columns))
        if self.adjust != "match_rms_adamw":
            scale = math.sqrt(max(1, rows / columns))
        change *= whole.rate * scale
        data -= change


def orthogonalized(
    matrix: Array,
    steps: int = 5,
    eps: float = 1e-7,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
) -> Array:
    """Approximately U V^T of the singular value decomposition U S V^T: (..., m, n) -> (..., m, n).

    By Muon's Newton-Schulz iteration, which needs only matrix products.
    """
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = xp.swapaxes(matrix, -1, -2) if tall else matrix
    norm = xp.sqrt(xp.square(x).sum(axis=(-2, -1), keepdims=True))
    x = x / xp.maximum(norm, in_dtype(eps, x))
    for _ in range(steps):
        gram = xp.matmul(x, xp.swapaxes(x, -1, -2))
        polynomial = xp.matmul(gram, gram)
        polynomial *= c
        gram *= b
        polynomial += gram
        change = xp.matmul(polynomial, x)
        x *= a
        x += change
    return xp.array(xp.swapaxes(x, -1, -2) if tall else x, order="C")
