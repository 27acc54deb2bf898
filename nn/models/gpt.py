"""GPT-2 (Radford et al., "Language models are unsupervised multitask learners", 2019)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.activations import GELU
from ringlet.nn.layers.attention import CausalSelfAttention
from ringlet.nn.layers.basic import Dropout, Embedding, Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.experts import MixtureOfExperts
from ringlet.nn.layers.losses import CrossEntropyLoss
from ringlet.nn.layers.normalization import LayerNorm
from ringlet.nn.models.huggingface.pretrained import PretrainedError, expect, matches, number
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.module import Module, ModuleList, uninitialized
from ringlet.nn.random import generator

INITIAL_STD = 0.02


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT, under nanoGPT's names.

    With `n_expert` above 0 every MLP is a mixture of so many; see nn.Experts for its options.
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

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:
        """See Pretrained. Dropout is that of the residuals."""
        expect(values, GPT2_HAS)
        width = number(values, "n_embd")
        if values.get("n_inner") not in (None, 4 * width):
            raise PretrainedError(f"n_inner is {values['n_inner']}; it has to be 4 x n_embd")
        return cls(
            vocab_size=number(values, "vocab_size"),
            block_size=number(values, "n_positions", 1024),
            n_layer=number(values, "n_layer"),
            n_head=number(values, "n_head"),
            n_embd=width,
            dropout=values.get("resid_pdrop", 0.1),
            eps=values.get("layer_norm_epsilon", 1e-5),
        )

    def to_huggingface(self) -> dict[str, Any]:
        """See Pretrained."""
        if self.n_expert:
            raise PretrainedError(
                f"this model has {self.n_expert} experts in each block, and Hugging Face's GPT-2 "
                "has none: it cannot be written so"
            )
        return {
            "vocab_size": self.vocab_size,
            "n_positions": self.block_size,
            "n_ctx": self.block_size,
            "n_embd": self.n_embd,
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": self.eps,
            "resid_pdrop": self.dropout,
            "embd_pdrop": self.dropout,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": True,
        }


GPT2_HAS = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
"""What a config.json may say besides sizes."""


class MLP(Module):
    """Two linear layers with a GELU between: (B, T, C) -> (B, T, 4C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, config.bias)
        self.act = GELU("tanh")
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


def make_mlp(config: GPTConfig) -> MLP | MixtureOfExperts:
    """One MLP for all positions, or a mixture of many."""
    if not config.n_expert:
        return MLP(config)
    return MixtureOfExperts(
        config.n_embd,
        4 * config.n_embd,
        config.n_expert,
        config.top_k,
        config.capacity_factor,
        config.balance,
        config.bias,
        config.dropout,
    )


class Block(Module):
    """Attention and MLP, each on the normalized input and added to it."""

    def __init__(self, config: GPTConfig) -> None:
        self.ln_1 = LayerNorm(config.n_embd, config.eps)
        self.attn = CausalSelfAttention(config.n_embd, config.n_head, config.dropout, config.bias)
        self.ln_2 = LayerNorm(config.n_embd, config.eps)
        self.mlp = make_mlp(config)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Transformer(Module):
    """The parts below the head; GPT puts them together."""

    def __init__(self, config: GPTConfig) -> None:
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.block_size, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd, config.eps)


class GPT(LanguageModel):
    """GPT-2: learned positions, normalization first, tied head.

    Parameters have the names of Hugging Face's GPT-2 (transformer.h.0.attn.c_attn.weight); linear
    weights are (out, in) as everywhere here, which is the transpose of what GPT-2's files hold.
    Each initial value depends on (seed, name) only.
    """

    architecture, model_type, config_class = "GPT2LMHeadModel", "gpt2", GPTConfig
    prefix = "transformer."
    transposed = ("*.attn.c_attn.weight", "*.c_proj.weight", "*.mlp.c_fc.weight")
    ignored = ("*.attn.bias", "*.attn.masked_bias", "lm_head.weight")

    def __init__(self, config: GPTConfig, seed: int = 1337) -> None:
        self.config = config
        self.context_length = config.block_size
        with uninitialized():
            self.transformer = Transformer(config)
            self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        self.loss = CrossEntropyLoss()
        self.assign_paths()
        self.initialize(seed)

    def embed(self, ids: Array, positions: Array) -> Tensor:
        """Ids (B, T) at positions (T,) of their contexts -> (B, T, C)."""
        self.check_length(positions)
        parts = self.transformer
        return parts.drop(parts.wte(ids) + parts.wpe(positions))

    @property
    def blocks(self) -> ModuleList:
        """See LanguageModel."""
        return self.transformer.h

    def features(self, x: Tensor) -> Tensor:
        """See LanguageModel."""
        return self.transformer.ln_f(x)

    @property
    def output(self) -> Module:
        """See LanguageModel."""
        return self.lm_head

    def file_state(self) -> dict[str, Array]:
        """See Pretrained. GPT-2 always has biases; where a model has none they are zeros."""
        state = super().file_state()
        if not self.config.bias:
            for name, array in list(state.items()):
                if matches(name, self.transposed):
                    bias = np.zeros(array.shape[1], array.dtype)
                    state[name.removesuffix("weight") + "bias"] = bias
        return state

    def initial_value(self, name: str, shape: tuple[int, ...], seed: int) -> Array:
        """GPT-2's start: normal with deviation 0.02, less for what is added to the residual."""
        _, module, kind = ("", *name.rsplit(".", 2))[-3:]
        if kind == "bias" or module.startswith("ln_"):
            return np.full(shape, kind == "weight", np.float32)
        residual = INITIAL_STD / math.sqrt(2 * self.config.n_layer)
        std = residual if module == "c_proj" else INITIAL_STD
        draws = generator(seed, name).standard_normal(shape, np.float32)
        return draws * np.float32(std)
