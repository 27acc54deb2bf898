"""The blocks of T5's encoder and decoder."""

from dataclasses import dataclass
from typing import Any

from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.containers import ModuleDict, ModuleList
from ringlet.nn.layers.basic import Dropout, Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.normalization import RMSNorm
from ringlet.nn.layers.positions import RelativePositionBias
from ringlet.nn.models.activation import Activation
from ringlet.nn.models.attention import HeadsAttention
from ringlet.nn.module import Module


@dataclass(frozen=True)
class T5Config:
    """The sizes of a T5, under Hugging Face's names.

    0 decoder layers means as many as the encoder has. `feed_forward_proj` is an activation, or
    "gated-" and one: T5 1.1 has "gated-gelu", and neither ties the head to the embedding nor
    scales the head's input.
    """

    vocab_size: int = 256
    d_model: int = 128
    d_kv: int = 32
    d_ff: int = 512
    num_layers: int = 4
    num_decoder_layers: int = 0
    num_heads: int = 4
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool = True
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    @property
    def decoders(self) -> int:
        """The number of decoder layers."""
        return self.num_decoder_layers or self.num_layers

    @property
    def activation(self) -> str:
        """The activation's name; the gated GELU is the approximate one."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.gated and name == "gelu" else name

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        return self.feed_forward_proj.startswith("gated-")


class T5SelfAttention(Module):
    """Attention to the same sequence; scores are not scaled."""

    def __init__(self, config: T5Config, causal: bool) -> None:
        width, inside = config.d_model, config.num_heads * config.d_kv
        self.q, self.k, self.v = (Linear(width, inside, bias=False) for _ in range(3))
        self.attend = HeadsAttention(
            config.num_heads, causal=causal, scale=1.0, dropout=config.dropout_rate
        )
        self.o = Linear(inside, width, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor | Array | None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.o(self.attend(self.q(x), self.k(x), self.v(x), mask, cache=cache))


class T5CrossAttention(T5SelfAttention):
    """Attention to the encoder's result."""

    def forward(  # type: ignore[override]
        self, x: Tensor, source: Tensor, mask: Array | None, cache: KeyValueCache | None
    ) -> Tensor:
        """x (B, T, C) attends to `source` (B, S, C); a cache keeps the source's keys and values."""
        if cache is not None and cache.length:
            return self.o(self.attend.cached(self.q(x), mask, cache))
        return self.o(self.attend(self.q(x), self.k(source), self.v(source), mask, cache=cache))


class T5MLP(Module):
    """The MLP: (B, T, C) -> (B, T, C); gated as in Shazeer, "GLU variants improve transformer"
    (2020)."""

    def __init__(self, config: T5Config) -> None:
        width, inside = config.d_model, config.d_ff
        self.gated = config.gated
        if self.gated:
            self.wi_0, self.wi_1 = (Linear(width, inside, bias=False) for _ in range(2))
        else:
            self.wi = Linear(width, inside, bias=False)
        self.act = Activation(config.activation)
        self.dropout = Dropout(config.dropout_rate)
        self.wo = Linear(inside, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.act(self.wi_0(x)) * self.wi_1(x) if self.gated else self.act(self.wi(x))
        return self.wo(self.dropout(inside))


class T5Sublayer(Module):
    """A part computed from the normalized input and added to it; `name` is the part's in files."""

    def __init__(self, config: T5Config, name: str, part: Module) -> None:
        setattr(self, name, part)
        self._name = name
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor, *inputs: Any) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        part = getattr(self, self._name)
        return x + self.dropout(part(self.layer_norm(x), *inputs))


class T5EncoderBlock(Module):
    """Attention and MLP; the last block normalizes what the decoder attends to."""

    def __init__(self, config: T5Config, last: bool) -> None:
        attention = T5Sublayer(config, "SelfAttention", T5SelfAttention(config, causal=False))
        mlp = T5Sublayer(config, "DenseReluDense", T5MLP(config))
        self.layer = ModuleList([attention, mlp])
        self.last = last
        if last:
            self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
            self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        attention, mlp = self.layer
        y = mlp(attention(x, mask))
        return self.dropout(self.final_layer_norm(y)) if self.last else y


class T5DecoderBlock(Module):
    """Causal attention, attention to the encoder's result, and MLP."""

    def __init__(self, config: T5Config) -> None:
        attention = T5Sublayer(config, "SelfAttention", T5SelfAttention(config, causal=True))
        across = T5CrossAttention(config, causal=False)
        mlp = T5Sublayer(config, "DenseReluDense", T5MLP(config))
        self.layer = ModuleList([attention, T5Sublayer(config, "EncDecAttention", across), mlp])

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        bias: Tensor,
        mask: Array | None,
        cache: tuple[KeyValueCache, KeyValueCache] | None = None,
    ) -> Tensor:
        """(B, T, C), (B, S, C) -> (B, T, C)."""
        attention, across, mlp = self.layer
        own, others = cache or (None, None)
        return mlp(across(attention(x, bias, own), source, mask, others))


def encoder(config: T5Config) -> ModuleDict:
    """The encoder's blocks, and the position bias that all of them add to their scores."""
    last = config.num_layers - 1
    return ModuleDict(
        dropout=Dropout(config.dropout_rate),
        position_bias=position_bias(config, bidirectional=True),
        block=ModuleList([T5EncoderBlock(config, n == last) for n in range(last + 1)]),
    )


def decoder(config: T5Config) -> ModuleDict:
    """The decoder's blocks, their position bias, and the last normalization."""
    return ModuleDict(
        dropout=Dropout(config.dropout_rate),
        position_bias=position_bias(config, bidirectional=False),
        block=ModuleList([T5DecoderBlock(config) for _ in range(config.decoders)]),
        final_layer_norm=RMSNorm(config.d_model, config.layer_norm_epsilon),
        final_dropout=Dropout(config.dropout_rate),
    )


def position_bias(config: T5Config, bidirectional: bool) -> RelativePositionBias:
    """The relative position bias that a stack of blocks shares."""
    return RelativePositionBias(
        config.num_heads,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
        bidirectional,
    )
