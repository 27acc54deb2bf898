"""Activations under their names in a config.json."""

from ringlet.nn import functional as F
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.module import Module


class Activation(Module):
    """One of KINDS, element by element."""

    KINDS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")

    def __init__(self, kind: str) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"unknown activation {kind!r}; known are {', '.join(self.KINDS)}")
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "relu":
            return F.relu(x)
        if self.kind == "silu":
            return F.silu(x)
        return F.gelu(x, "none" if self.kind == "gelu" else "tanh")

    def extra_repr(self) -> str:
        return repr(self.kind)
