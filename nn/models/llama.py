"""Llama (Touvron et al., "LLaMA: open and efficient foundation language models", 2023; "The Llama
3 herd of models", 2024), and its relatives: Mistral (Jiang et al., "Mistral 7B", 2023), Qwen2 and
Qwen3 (Yang et al., "Qwen2 technical report", 2024; "Qwen3 technical report", 2025)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ringlet.nn import functional as F
from ringlet.nn.autograd.operations.attention_scores import KeyMask
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.containers import ModuleDict, ModuleList
from ringlet.nn.layers.basic import Embedding, Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.normalization import RMSNorm
from ringlet.nn.models.attention import HeadsAttention, Rotation, padded
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.models.rope import DynamicRotaryEmbedding, longest_context, rotary_positions
from ringlet.nn.module import Module

__all__ = ["Llama", "LlamaConfig"]

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes of a Llama, under Hugging Face's names.

    0 key-value heads means as many as query heads; a `head_dim` of 0 is hidden_size / heads.
    `rope_scaling` stretches the rotary positions: {"rope_type": "linear", "dynamic", "yarn" or
    "llama3", ...}, see rope.py. `sliding_window` is the number of keys that a query attends to, the
    nearest ones, 0 for all; `layer_types` has "sliding_attention" or "full_attention" for each
    block if they differ. `qkv_bias` gives queries, keys and values biases (Qwen2), `attention_bias`
    the joined heads too. `qk_norm` normalizes each head's queries and keys (Qwen3).
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
    attention_dropout: float = 0.0
    sliding_window: int = 0
    layer_types: tuple[str, ...] = ()
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def groups(self) -> int:
        """The number of key-value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def width(self) -> int:
        """The width of each head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def windows(self) -> tuple[int, ...]:
        """Each block's window; raises ValueError for `layer_types` that are not one for each."""
        types = self.layer_types or (SLIDING,) * self.num_hidden_layers
        if len(types) != self.num_hidden_layers or not {*types} <= {SLIDING, FULL}:
            raise ValueError(
                f"layer_types are {list(types)}; there must be {SLIDING} or {FULL} for each of "
                f"{self.num_hidden_layers} layers"
            )
        return tuple(self.sliding_window if kind == SLIDING else 0 for kind in types)


class LlamaAttention(Module):
    """Causal self-attention with rotary positions: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: LlamaConfig, window: int = 0) -> None:
        width, bias = config.hidden_size, config.attention_bias or config.qkv_bias
        inside, keys = config.num_attention_heads * config.width, config.groups * config.width
        self.q_proj = Linear(width, inside, bias)
        self.k_proj = Linear(width, keys, bias)
        self.v_proj = Linear(width, keys, bias)
        if config.qk_norm:
            self.q_norm, self.k_norm = (HeadNorm(config.width, config.rms_norm_eps) for _ in "qk")
        self.attend = HeadsAttention(
            config.num_attention_heads, config.groups, causal=True,
            dropout=config.attention_dropout, window=window,
        )  # fmt: skip
        self.o_proj = Linear(inside, width, config.attention_bias)
        self.qk_norm = config.qk_norm

    def forward(
        self, x: Tensor, rotation: Rotation, mask: KeyMask, cache: KeyValueCache | None
    ) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return self.o_proj(self.attend(q, k, v, mask, rotation, cache))


class HeadNorm(RMSNorm):
    """RMS normalization of each head by itself, all with the same weight: (..., H * D) -> the
    same."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.reshape(*x.shape[:-1], -1, *self.normalized_shape)
        return super().forward(heads).reshape(*x.shape)


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

    def __init__(self, config: LlamaConfig, window: int = 0) -> None:
        self.self_attn = LlamaAttention(config, window)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        mask: KeyMask = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(LanguageModel):
    """Rotary positions, RMS pre-normalization, SwiGLU, grouped-query attention; with other options
    a Mistral, Qwen2 or Qwen3.

    Parameters have the names of Hugging Face's Llama (model.layers.0.self_attn.q_proj.weight).
    """

    def build(self, config: LlamaConfig) -> None:
        scaling, context = config.rope_scaling, config.max_position_embeddings
        self.context_length = longest_context(scaling, context)
        self.model = ModuleDict(
            embed_tokens=Embedding(config.vocab_size, config.hidden_size),
            layers=ModuleList([LlamaBlock(config, window) for window in config.windows]),
            norm=RMSNorm(config.hidden_size, config.rms_norm_eps),
            rotary_emb=rotary_positions(config.width, config.rope_theta, scaling, context),
        )
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def embed(self, ids: Array, positions: Array, **rows: Any) -> Tensor:
        """Ids (B, T) -> (B, T, C)."""
        self.check_length(padded(positions, **rows)[0])
        return self.model.embed_tokens(ids)

    def for_blocks(self, ids: Array, positions: Array, **rows: Any) -> tuple[Rotation, KeyMask]:
        """Cosines and sines of the positions' angles, and the keys to attend to: where an
        `attention_mask` (B, S) is not 0, or within `documents` (B, T), numbers of the texts that
        rows are packed with."""
        rotary = self.model.rotary_emb
        every = isinstance(rotary, DynamicRotaryEmbedding)
        if every:
            positions = np.arange(int(positions.max(initial=-1)) + 1)
        own, mask = padded(positions, **rows)
        by_head = own if own.ndim == 1 else own[:, None]
        cos, sin = rotary.tables(by_head, own.shape[-1], np.dtype(np.float32))
        return Rotation(cos, sin, every), mask

    @property
    def blocks(self) -> ModuleList:
        return self.model.layers

    def features(self, x: Tensor) -> Tensor:
        return self.model.norm(x)
