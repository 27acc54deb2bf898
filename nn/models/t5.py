"""T5 (Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text
transformer", 2020): an encoder and a decoder."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np

from ringlet.nn.autograd.conversion import host_array
from ringlet.nn.autograd.operations.arithmetic import where
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.basic import Dropout, Embedding, Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.losses import CrossEntropyLoss
from ringlet.nn.layers.normalization import RMSNorm
from ringlet.nn.layers.positions import RelativePositionBias
from ringlet.nn.models.activation import Activation
from ringlet.nn.models.attention import HeadsAttention, key_mask
from ringlet.nn.models.generation.decoding import Decoding, Translating
from ringlet.nn.models.huggingface.pretrained import PretrainedError, known_values
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.module import Module, ModuleList, uninitialized
from ringlet.nn.random import generator

IGNORED = -100
"""A target that does not count."""


@dataclass(frozen=True)
class T5Config:
    """The sizes of a T5, under Hugging Face's names.

    0 decoder layers are as many as the encoder has. `feed_forward_proj` is an activation, or
    "gated-" and one: T5 1.1 has "gated-gelu", and neither ties the head to the embedding nor
    scales what the head gets.
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
        """Layers of the decoder."""
        return self.num_decoder_layers or self.num_layers

    @property
    def activation(self) -> str:
        """Its name; the gated GELU is the approximate one."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.gated and name == "gelu" else name

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        return self.feed_forward_proj.startswith("gated-")

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:
        """See Pretrained. In older files a head that is not tied means no scale either."""
        tied = values.get("tie_word_embeddings") is not False
        config = cls(**known_values(cls, {"scale_decoder_outputs": tied, **values}))
        if config.activation not in Activation.KINDS:
            raise PretrainedError(f"feed_forward_proj is {config.feed_forward_proj!r}")
        return config

    def to_huggingface(self) -> dict[str, Any]:
        """See Pretrained."""
        return asdict(self) | {"num_decoder_layers": self.decoders, "is_encoder_decoder": True}


class Attention(Module):
    """Attention to a sequence, or to another one; scores are not scaled."""

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
        y = self.attend(self.q(x), self.k(x), self.v(x), mask, cache=cache)
        return self.o(y)

    def across(
        self, x: Tensor, source: Tensor, mask: Array | None, cache: KeyValueCache | None
    ) -> Tensor:
        """x (B, T, C) sees `source` (B, S, C), whose keys and values a cache keeps."""
        if cache is not None and cache.length:
            y = self.attend.again(self.q(x), mask, cache)
        else:
            y = self.attend(self.q(x), self.k(source), self.v(source), mask, cache=cache)
        return self.o(y)


class SelfAttention(Module):
    """Self-attention on the normalized input, added to it."""

    def __init__(self, config: T5Config, causal: bool) -> None:
        self.SelfAttention = Attention(config, causal)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor, mask: Any, cache: KeyValueCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return x + self.dropout(self.SelfAttention(self.layer_norm(x), mask, cache))


class CrossAttention(Module):
    """Attention of the normalized input to the encoder's result, added to the input."""

    def __init__(self, config: T5Config) -> None:
        self.EncDecAttention = Attention(config, causal=False)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(
        self, x: Tensor, source: Tensor, mask: Array | None, cache: KeyValueCache | None
    ) -> Tensor:
        """(B, T, C), (B, S, C) -> (B, T, C)."""
        seen = self.EncDecAttention.across(self.layer_norm(x), source, mask, cache)
        return x + self.dropout(seen)


class DenseReluDense(Module):
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
        """See the class."""
        inside = self.act(self.wi_0(x)) * self.wi_1(x) if self.gated else self.act(self.wi(x))
        return self.wo(self.dropout(inside))


class FeedForward(Module):
    """The MLP on the normalized input, added to it."""

    def __init__(self, config: T5Config) -> None:
        self.DenseReluDense = DenseReluDense(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class EncoderBlock(Module):
    """Attention and MLP; the last block normalizes what the decoder sees."""

    def __init__(self, config: T5Config, last: bool) -> None:
        self.layer = ModuleList([SelfAttention(config, causal=False), FeedForward(config)])
        self.last = last
        if last:
            self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
            self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        attention, mlp = self.layer
        y = mlp(attention(x, mask))
        if self.last:
            y = self.dropout(self.final_layer_norm(y))
        return y


class DecoderBlock(Module):
    """Causal attention, attention to the encoder's result, and MLP."""

    def __init__(self, config: T5Config) -> None:
        self.layer = ModuleList(
            [SelfAttention(config, causal=True), CrossAttention(config), FeedForward(config)]
        )

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


class Encoder(Module):
    """The encoder's blocks, and the bias of distances that all of them add to their scores."""

    def __init__(self, config: T5Config) -> None:
        last = config.num_layers - 1
        self.dropout = Dropout(config.dropout_rate)
        self.position_bias = position_bias(config, bidirectional=True)
        self.block = ModuleList([EncoderBlock(config, n == last) for n in range(last + 1)])


class Decoder(Module):
    """The decoder's blocks, their bias, and the last normalization."""

    def __init__(self, config: T5Config) -> None:
        self.dropout = Dropout(config.dropout_rate)
        self.position_bias = position_bias(config, bidirectional=False)
        self.block = ModuleList([DecoderBlock(config) for _ in range(config.decoders)])
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.final_dropout = Dropout(config.dropout_rate)


def position_bias(config: T5Config, bidirectional: bool) -> RelativePositionBias:
    """The bias of distances of a stack of blocks."""
    return RelativePositionBias(
        config.num_heads,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
        bidirectional,
    )


class T5(LanguageModel):
    """Encoder and decoder, RMS normalization first, relative positions, tied head.

    Two sequences go through it: what comes out of the encoder, and what the decoder makes of its
    own ids while it sees that. Parameters have the names of Hugging Face's T5
    (encoder.block.0.layer.0.SelfAttention.q.weight) but for a few that belong to all blocks.
    """

    architecture, model_type, config_class = "T5ForConditionalGeneration", "t5", T5Config
    file_names = tuple(
        (f"{stack}.position_bias.", f"{stack}.block.0.layer.0.SelfAttention.")
        for stack in ("encoder", "decoder")
    )
    ignored = (
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    )

    def __init__(self, config: T5Config, seed: int = 1337) -> None:
        self.config = config
        with uninitialized():
            self.shared = Embedding(config.vocab_size, config.d_model)
            self.encoder = Encoder(config)
            self.decoder = Decoder(config)
            self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.shared.weight
        self.loss = CrossEntropyLoss()
        self.assign_paths()
        self.initialize(seed)

    # -- the parts ----------------------------------------------------------------------------

    def embed(self, ids: Any, positions: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Ids (B, S) of the source and (B, T) of the decoder -> (B, S, C) and (B, T, C)."""
        source, target = ids
        return (
            self.encoder.dropout(self.shared(source)),
            self.decoder.dropout(self.shared(target)),
        )

    def for_blocks(
        self, ids: Any, positions: Any, attention_mask: Any = None
    ) -> tuple[Tensor, Tensor, Array | None]:
        """Biases (1 or B, H, S, S) of the encoder's and (1, H, T, T) of the decoder's scores, and
        what `attention_mask` (B, S) lets both see of the source: where it is not 0."""
        source, target = (np.shape(each)[1] for each in ids)
        mask = key_mask(attention_mask)
        return self.source_bias(source, mask), self.decoder.position_bias(target, target), mask

    def source_bias(self, length: int, mask: Array | None) -> Tensor:
        """What is added to the encoder's scores: (1 or B, H, S, S)."""
        bias = self.encoder.position_bias(length, length)
        return bias if mask is None else where(mask, bias, -np.inf)

    def advance(self, block: Module, x: Any, common: tuple[Any, ...], **cache: Any) -> Any:
        """See LanguageModel: a block changes one of the two sequences."""
        source, target = x
        own, bias, mask = common
        if isinstance(block, EncoderBlock):
            return block(source, own), target
        return source, block(target, source, bias, mask, **cache)

    @property
    def blocks(self) -> Sequence[Module]:
        """See LanguageModel: the encoder's, then the decoder's."""
        return [*self.encoder.block, *self.decoder.block]

    def features(self, x: Any) -> Tensor:
        """See LanguageModel: (B, S, C) and (B, T, C) -> (B, T, C)."""
        y = self.decoder.final_dropout(self.decoder.final_layer_norm(x[1]))
        return y * (1 / math.sqrt(self.config.d_model)) if self.config.scale_decoder_outputs else y

    @property
    def output(self) -> Module:
        """See LanguageModel."""
        return self.lm_head

    def forward(
        self,
        ids: Any,
        targets: Array | Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        caches: Sequence[Any] | None = None,
        decoder_ids: Array | Tensor | None = None,
        **options: Array,
    ) -> Tensor:
        """Logits (B, T, V), or with targets (B, T) the cross-entropy in nats.

        `ids` (B, S) are the source's; the decoder's ids (B, T) are by default the targets, each
        after its predecessor. `attention_mask` (B, S) is 0 where the source is padding.
        """
        if caches is not None:
            raise ValueError("a T5 goes on from caches with `decode`")
        if decoder_ids is None:
            if targets is None:
                raise ValueError("a T5 needs decoder_ids, or targets to make them from")
            decoder_ids = self.shift_right(targets)
        both = host_array(ids), host_array(decoder_ids)
        positions = tuple(np.arange(each.shape[1]) for each in both)
        common = self.for_blocks(both, positions, **options)
        x = self.embed(both, positions, **options)
        for block in self.blocks:
            x = self.advance(block, x, common)
        return self.end(x, targets, reduction)

    def shift_right(self, targets: Array | Tensor) -> Array:
        """What the decoder has read when it says the targets (B, T): a start and all but the
        last; those that do not count are padding."""
        ids = host_array(targets)
        start = np.full((len(ids), 1), self.config.decoder_start_token_id, ids.dtype)
        shifted = np.concatenate([start, ids[:, :-1]], axis=1)
        return np.where(shifted == IGNORED, self.config.pad_token_id, shifted)

    # -- one token after the other ------------------------------------------------------------

    def encode(self, ids: Array, attention_mask: Array | None = None) -> Tensor:
        """What the encoder makes of ids (B, S): (B, S, C)."""
        ids = np.asarray(ids)
        bias = self.source_bias(ids.shape[1], key_mask(attention_mask))
        x = self.encoder.dropout(self.shared(ids))
        for block in self.encoder.block:
            x = block(x, bias)
        return x

    def decode(
        self,
        ids: Array,
        source: Tensor,
        attention_mask: Array | None = None,
        caches: Sequence[tuple[KeyValueCache, KeyValueCache]] | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the decoder's ids (B, T) that see what `encode` gave.

        With caches (two for each block) the ids continue those of before.
        """
        mask = key_mask(attention_mask)
        first = caches[0][0].length if caches else 0
        bias = self.decoder.position_bias(ids.shape[1], first + ids.shape[1], first)
        x: Any = source, self.decoder.dropout(self.shared(ids))
        for number, block in enumerate(self.decoder.block):
            cache = {"cache": caches[number]} if caches else {}
            x = self.advance(block, x, (None, bias, mask), **cache)
        return self.head(x)

    def decoding(self, ids: Array, use_cache: bool, **options: Any) -> Decoding:
        """See LanguageModel: ids (B, S) are the source's."""
        return Translating(self, ids, use_cache, **options)

    def prompt(self, ids: Array) -> Array:
        """See LanguageModel: the decoder's start (B, 1)."""
        return np.full((len(ids), 1), self.config.decoder_start_token_id, np.int64)

    def pair_caches(self) -> list[tuple[KeyValueCache, KeyValueCache]]:
        """Empty caches for `decode`: of the decoder's own and of the source's keys and values."""
        return [(KeyValueCache(), KeyValueCache()) for _ in self.decoder.block]

    # -- files and initial values -------------------------------------------------------------

    def file_name(self, name: str) -> str:
        """See Pretrained. The last block's normalization is the encoder's there."""
        return re.sub(r"^encoder\.block\.\d+\.final_", "encoder.final_", super().file_name(name))

    @classmethod
    def refine(cls, values: dict[str, Any], arrays: Mapping[str, Array]) -> dict[str, Any]:
        """A head of its own in the files counts, whatever the config says."""
        head, table = arrays.get("lm_head.weight"), arrays.get("shared.weight")
        tied = values.get("tie_word_embeddings") is not False
        if head is None or table is None or not tied or np.array_equal(head, table):
            return values
        scaled = values.get("scale_decoder_outputs", True)
        return {**values, "tie_word_embeddings": False, "scale_decoder_outputs": scaled}

    def initial_value(self, name: str, shape: tuple[int, ...], seed: int) -> Array:
        """T5's own start: deviations that keep sizes, since scores are not scaled."""
        config = self.config
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        kind = name.split(".")[-2]
        variances = {
            "shared": 1.0,
            "q": 1 / (config.d_model * config.d_kv),
            "o": 1 / (config.num_heads * config.d_kv),
            "wo": 1 / config.d_ff,
        }
        std = math.sqrt(variances.get(kind, 1 / config.d_model))
        draws = generator(seed, name).standard_normal(shape, np.float32)
        return draws * np.float32(std)
