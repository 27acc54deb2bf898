"""Llama (Touvron et al., "LLaMA: open and efficient foundation language models", 2023; "The Llama
3 herd of models", 2024)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.containers import ModuleDict, ModuleList
from ringlet.nn.layers.basic import Embedding, Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.normalization import RMSNorm
from ringlet.nn.layers.positions import RotaryEmbedding
from ringlet.nn.models.attention import HeadsAttention, Rotation
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.module import Module

__all__ = ["Llama", "LlamaConfig"]


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes of a Llama, under Hugging Face's names.

    0 key-value heads means as many as query heads; a `head_dim` of 0 is hidden_size / heads.
    `rope_scaling` stretches the rotary positions: {"rope_type": "linear" or "llama3", ...}.
    """

    vocab_size: int = 256
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 0
    head_dim: int = 0
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def groups(self) -> int:
        """The number of key-value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def width(self) -> int:
        """The width of each head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


class LlamaAttention(Module):
    """Causal self-attention with rotary positions: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: LlamaConfig) -> None:
        width, bias = config.hidden_size, config.attention_bias
        inside, keys = config.num_attention_heads * config.width, config.groups * config.width
        self.q_proj = Linear(width, inside, bias)
        self.k_proj = Linear(width, keys, bias)
        self.v_proj = Linear(width, keys, bias)
        self.attend = HeadsAttention(config.num_attention_heads, config.groups, causal=True)
        self.o_proj = Linear(inside, width, bias)

    def forward(self, x: Tensor, rotation: Rotation, cache: KeyValueCache | None) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.o_proj(self.attend(q, k, v, rotation=rotation, cache=cache))


class LlamaMLP(Module):
    """SwiGLU: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: LlamaConfig) -> None:
        width, inside, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(width, inside, bias)
        self.up_proj = Linear(width, inside, bias)
        self.down_proj = Linear(inside, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.swiglu(self.gate_proj(x), self.up_proj(x)))


class LlamaBlock(Module):
    """Attention and MLP, each on the normalized input and added to it."""

    def __init__(self, config: LlamaConfig) -> None:
        self.self_attn = LlamaAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: Rotation, cache: KeyValueCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(LanguageModel):
    """Rotary positions, RMS pre-normalization, SwiGLU, grouped-query attention.

    Parameters have the names of Hugging Face's Llama (model.layers.0.self_attn.q_proj.weight).
    """

    def build(self, config: LlamaConfig) -> None:
        self.context_length = config.max_position_embeddings
        self.model = ModuleDict(
            embed_tokens=Embedding(config.vocab_size, config.hidden_size),
            layers=ModuleList([LlamaBlock(config) for _ in range(config.num_hidden_layers)]),
            norm=RMSNorm(config.hidden_size, config.rms_norm_eps),
            rotary_emb=RotaryEmbedding(config.width, frequencies=frequencies(config)),
        )
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def embed(self, ids: Array, positions: Array) -> Tensor:
        """Ids (B, T) -> (B, T, C)."""
        self.check_length(positions)
        return self.model.embed_tokens(ids)

    def for_blocks(self, ids: Array, positions: Array) -> tuple[Rotation]:
        """Cosines and sines of the positions' angles."""
        return (self.model.rotary_emb.tables(positions, len(positions), np.dtype(np.float32)),)

    @property
    def blocks(self) -> ModuleList:
        return self.model.layers

    def features(self, x: Tensor) -> Tensor:
        return self.model.norm(x)


def frequencies(config: LlamaConfig) -> Array:
    """The angle between one position and the next for each pair of a head, in radians: (D / 2,).

    "linear" divides all by `factor`. "llama3" divides those that turn less than `low_freq_factor`
    times in the original context, keeps those above `high_freq_factor`, and interpolates in
    between (Llama 3.1's reference code).
    """
    plain = F.rotary_frequencies(config.width, config.rope_theta)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return plain / factor
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * plain + (1 - kept) * plain / factor
