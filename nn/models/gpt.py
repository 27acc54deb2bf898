"""GPT-2 (Radford et al., "Language models are unsupervised multitask learners", 2019)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ringlet.nn.layers import (
    GELU,
    CausalSelfAttention,
    CrossEntropyLoss,
    Dropout,
    Embedding,
    KeyValueCache,
    LayerNorm,
    Linear,
)
from ringlet.nn.module import Module, ModuleList, uninitialized
from ringlet.nn.random import generator
from ringlet.nn.tensor import Array, Tensor

INITIAL_STD = 0.02


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT, under nanoGPT's names."""

    vocab_size: int = 256
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    bias: bool = True


class MLP(Module):
    """Two linear layers with a GELU between: (B, T, C) -> (B, T, 4C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, config.bias)
        self.act = GELU("tanh")
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        dropped: Tensor = self.dropout(self.c_proj(self.act(self.c_fc(x))))
        return dropped


class Block(Module):
    """Attention and MLP, each on the normalized input and added to it."""

    def __init__(self, config: GPTConfig) -> None:
        self.ln_1 = LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config.n_embd, config.n_head, config.dropout, config.bias)
        self.ln_2 = LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), cache)
        y: Tensor = x + self.mlp(self.ln_2(x))
        return y


class Transformer(Module):
    """The parts below the head; GPT puts them together."""

    def __init__(self, config: GPTConfig) -> None:
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.block_size, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd)


class GPT(Module):
    """GPT-2: learned positions, normalization first, tied head.

    It is a chain of `embed`, `blocks`, `head` and `loss`, and `forward` runs them in a row; a
    pipeline runs them on different processes.

    Parameters have the names of Hugging Face's GPT-2 (transformer.h.0.attn.c_attn.weight); linear
    weights are (out, in) as everywhere here, which is the transpose of what GPT-2's files hold.
    Each initial value depends on (seed, name) only.
    """

    def __init__(self, config: GPTConfig, seed: int = 1337) -> None:
        self.config = config
        with uninitialized():
            self.transformer = Transformer(config)
            self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        self.loss = CrossEntropyLoss()
        self.assign_paths()
        self.initialize(seed)

    def forward(
        self,
        ids: Array | Tensor,
        targets: Array | Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T); with targets (B, T) the cross-entropy in nats.

        With caches (one for each block) the ids continue those of before. Raises ValueError for
        more positions than `block_size`, IndexError for an id or target that is not in the
        vocabulary.
        """
        ids = ids.data if isinstance(ids, Tensor) else np.asarray(ids)
        start = caches[0].length if caches else 0
        x = self.embed(ids, np.arange(start, start + ids.shape[1]))
        for number, block in enumerate(self.blocks):
            x = block(x, caches[number] if caches else None)
        logits = self.head(x)
        if targets is None:
            return logits
        loss: Tensor = self.loss(logits, targets, reduction)
        return loss

    def embed(self, ids: Array, positions: Array) -> Tensor:
        """Ids (B, T) at positions (T,) of their contexts -> (B, T, C)."""
        seen = int(positions.max(initial=-1)) + 1
        if seen > self.config.block_size:
            raise ValueError(f"{seen} positions for a context of {self.config.block_size}")
        parts = self.transformer
        x: Tensor = parts.drop(parts.wte(ids) + parts.wpe(positions))
        return x

    @property
    def blocks(self) -> ModuleList:
        """The layers that a pipeline may cut apart, each (B, T, C) -> (B, T, C)."""
        return self.transformer.h

    def head(self, x: Tensor) -> Tensor:
        """(B, T, C) -> logits (B, T, V)."""
        logits: Tensor = self.lm_head(self.transformer.ln_f(x))
        return logits

    def initial_value(self, name: str, shape: tuple[int, ...], seed: int) -> Array:
        """GPT-2's start: normal with deviation 0.02, less for what is added to the residual."""
        _, module, kind = ("", *name.rsplit(".", 2))[-3:]
        if kind == "bias" or module.startswith("ln_"):
            return np.full(shape, kind == "weight", np.float32)
        residual = INITIAL_STD / math.sqrt(2 * self.config.n_layer)
        std = residual if module == "c_proj" else INITIAL_STD
        draws = generator(seed, name).standard_normal(shape, np.float32)
        return draws * np.float32(std)
