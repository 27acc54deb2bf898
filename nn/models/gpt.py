"""GPT-2 (Radford et al., "Language models are unsupervised multitask learners", 2019)."""

import math
from dataclasses import dataclass
from typing import Any

from ringlet.nn.autograd.operations.attention_scores import FirstKeys, KeyMask
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.containers import ModuleDict, ModuleList
from ringlet.nn.layers.activations import GELU
from ringlet.nn.layers.attention import CausalSelfAttention
from ringlet.nn.layers.basic import Dropout, Embedding, Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.experts import MixtureOfExperts
from ringlet.nn.layers.normalization import LayerNorm
from ringlet.nn.models.attention import padded
from ringlet.nn.models.language_model import INITIAL_STD, LanguageModel
from ringlet.nn.module import Module

__all__ = ["GPT", "GPTConfig"]


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT, under nanoGPT's names.

    With `n_expert` above 0 every MLP is a mixture of that many; see nn.Experts for its options.
    """

    vocab_size: int = 256
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    bias: bool = True
    eps: float = 1e-5
    n_expert: int = 0
    top_k: int = 2
    capacity_factor: float = 1.25
    balance: float = 0.01
    tie_word_embeddings: bool = True


class GPTMLP(Module):
    """Two linear layers with a GELU between: (B, T, C) -> (B, T, 4C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, config.bias)
        self.act = GELU("tanh")
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


def make_mlp(config: GPTConfig) -> GPTMLP | MixtureOfExperts:
    """One MLP for all positions, or a mixture of many."""
    if not config.n_expert:
        return GPTMLP(config)
    options = config.top_k, config.capacity_factor, config.balance, config.bias, config.dropout
    return MixtureOfExperts(config.n_embd, 4 * config.n_embd, config.n_expert, *options)


class GPTBlock(Module):
    """Attention and MLP, each on the normalized input and added to it."""

    def __init__(self, config: GPTConfig) -> None:
        self.ln_1 = LayerNorm(config.n_embd, config.eps)
        self.attn = CausalSelfAttention(config.n_embd, config.n_head, config.dropout, config.bias)
        self.ln_2 = LayerNorm(config.n_embd, config.eps)
        self.mlp = make_mlp(config)

    def forward(
        self, x: Tensor, mask: KeyMask = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), cache, mask)
        return x + self.mlp(self.ln_2(x))


class GPT(LanguageModel):
    """GPT-2: learned positions, pre-normalization, tied head.

    Parameters have the names of Hugging Face's GPT-2 (transformer.h.0.attn.c_attn.weight); linear
    weights are (out, in) as everywhere here, the transpose of what GPT-2's files hold.
    """

    def build(self, config: GPTConfig) -> None:
        self.context_length = config.block_size
        self.transformer = ModuleDict(
            wte=Embedding(config.vocab_size, config.n_embd),
            wpe=Embedding(config.block_size, config.n_embd),
            drop=Dropout(config.dropout),
            h=ModuleList([GPTBlock(config) for _ in range(config.n_layer)]),
            ln_f=LayerNorm(config.n_embd, config.eps),
        )
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def embed(self, ids: Array, positions: Array, **rows: Any) -> Tensor:
        """Ids (B, T) at positions (T,) of their contexts -> (B, T, C)."""
        own, _ = padded(positions, **rows)
        self.check_length(own)
        parts = self.transformer
        return parts.drop(parts.wte(ids) + parts.wpe(own))

    def for_blocks(self, ids: Array, positions: Array, **rows: Any) -> tuple[KeyMask]:
        """The keys to attend to: where an `attention_mask` (B, S) is not 0, or within `documents`
        (B, T), numbers of the texts that rows are packed with."""
        _, mask = padded(positions, **rows)
        padding = mask is not None and not isinstance(mask, FirstKeys)
        if padding and self.config.n_expert and self.training:
            raise ValueError(
                "padding would take the experts' capacity and their balance loss: train a mixture "
                "of experts without an attention_mask, on batches of one length"
            )
        return (mask,)

    @property
    def blocks(self) -> ModuleList:
        return self.transformer.h

    def features(self, x: Tensor) -> Tensor:
        return self.transformer.ln_f(x)

    def initial_std(self, name: str) -> float:
        """GPT-2's: 0.02, less for what is added to the residual."""
        residual = name.endswith("c_proj.weight")
        return INITIAL_STD / (math.sqrt(2 * self.config.n_layer) if residual else 1)
