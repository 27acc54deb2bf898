"""BERT (Devlin et al., "BERT: pre-training of deep bidirectional transformers for language
understanding", 2019), with its head that says what was masked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from ringlet.nn.autograd.conversion import host_array
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.basic import Dropout, Embedding, Linear
from ringlet.nn.layers.losses import CrossEntropyLoss
from ringlet.nn.layers.normalization import LayerNorm
from ringlet.nn.models.activation import Activation
from ringlet.nn.models.attention import HeadsAttention, key_mask
from ringlet.nn.models.generation.decoding import Decoding
from ringlet.nn.models.huggingface.pretrained import expect, known_values
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.module import Module, ModuleList, uninitialized
from ringlet.nn.random import generator

INITIAL_STD = 0.02


@dataclass(frozen=True)
class BERTConfig:
    """The sizes of a BERT, under Hugging Face's names."""

    vocab_size: int = 256
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:
        """See Pretrained."""
        expect(
            values,
            {
                "hidden_act": Activation.KINDS,
                "position_embedding_type": ("absolute",),
                "is_decoder": (False,),
                "tie_word_embeddings": (True,),
            },
        )
        return cls(**known_values(cls, values))

    def to_huggingface(self) -> dict[str, Any]:
        """See Pretrained."""
        return {**asdict(self), "tie_word_embeddings": True}


class Embeddings(Module):
    """Words, positions and types of segments, added and normalized: (B, T) -> (B, T, C)."""

    def __init__(self, config: BERTConfig) -> None:
        width = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, width)
        self.position_embeddings = Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = Embedding(config.type_vocab_size, width)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Array, positions: Array, types: Array) -> Tensor:
        """See the class."""
        x = self.word_embeddings(ids) + self.token_type_embeddings(types)
        return self.dropout(self.LayerNorm(x + self.position_embeddings(positions)))


class SelfAttention(Module):
    """Every position sees all that the mask lets it see: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: BERTConfig) -> None:
        width = config.hidden_size
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.attend = HeadsAttention(
            config.num_attention_heads, dropout=config.attention_probs_dropout_prob
        )

    def forward(self, x: Tensor, mask: Array | None) -> Tensor:
        """See the class."""
        return self.attend(self.query(x), self.key(x), self.value(x), mask)


class Output(Module):
    """A linear layer, whose result is added to `before` and normalized."""

    def __init__(self, config: BERTConfig, inside: int) -> None:
        self.dense = Linear(inside, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """(B, T, inside), (B, T, C) -> (B, T, C)."""
        return self.LayerNorm(self.dropout(self.dense(x)) + before)


class Attention(Module):
    """Self-attention and what joins its heads; `self` is its name in files."""

    def __init__(self, config: BERTConfig) -> None:
        self.self = SelfAttention(config)
        self.output = Output(config, config.hidden_size)

    def forward(self, x: Tensor, mask: Array | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.output(self.self(x, mask), x)


class Intermediate(Module):
    """The first half of the MLP: (B, T, C) -> (B, T, inside)."""

    def __init__(self, config: BERTConfig) -> None:
        self.dense = Linear(config.hidden_size, config.intermediate_size)
        self.act = Activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.act(self.dense(x))


class Layer(Module):
    """Attention and MLP, each added to its input and then normalized."""

    def __init__(self, config: BERTConfig) -> None:
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Output(config, config.intermediate_size)

    def forward(self, x: Tensor, mask: Array | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Encoder(Module):
    """The layers."""

    def __init__(self, config: BERTConfig) -> None:
        self.layer = ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])


class Body(Module):
    """The parts below the head."""

    def __init__(self, config: BERTConfig) -> None:
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)


class Transform(Module):
    """The head's own layer: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: BERTConfig) -> None:
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.act = Activation(config.hidden_act)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.LayerNorm(self.act(self.dense(x)))


class Predictions(Module):
    """The head; its matrix is that of the words."""

    def __init__(self, config: BERTConfig) -> None:
        self.transform = Transform(config)
        self.decoder = Linear(config.hidden_size, config.vocab_size)


class Head(Module):
    """The heads; this one of several in the paper."""

    def __init__(self, config: BERTConfig) -> None:
        self.predictions = Predictions(config)


class BERT(LanguageModel):
    """An encoder, normalization last, learned positions, tied head.

    Logits are those of the words at every position; targets of -100 do not count, which all but
    the masked ones have. Parameters have the names of Hugging Face's BERT
    (bert.encoder.layer.0.attention.self.query.weight).
    """

    architecture, model_type, config_class = "BertForMaskedLM", "bert", BERTConfig
    prefix = "bert."
    file_names = (("predictions.decoder.bias", "predictions.bias"),)
    older_names = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
    ignored = (
        "*.pooler.*",
        "*.position_ids",
        "cls.seq_relationship.*",
        "cls.predictions.decoder.*",
    )

    def __init__(self, config: BERTConfig, seed: int = 1337) -> None:
        self.config = config
        self.context_length = config.max_position_embeddings
        with uninitialized():
            self.bert = Body(config)
            self.cls = Head(config)
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        self.loss = CrossEntropyLoss()
        self.assign_paths()
        self.initialize(seed)

    def embed(
        self,
        ids: Array,
        positions: Array,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
    ) -> Tensor:
        """Ids (B, T), with the types of their segments (B, T) -> (B, T, C)."""
        self.check_length(positions)
        types = np.zeros_like(ids) if token_type_ids is None else token_type_ids
        return self.bert.embeddings(ids, positions, types)

    def for_blocks(
        self, ids: Array, positions: Array, attention_mask: Any = None, **options: Array
    ) -> tuple[Array | None]:
        """What `attention_mask` (B, T) lets every position see: where it is not 0."""
        return (key_mask(attention_mask),)

    @property
    def blocks(self) -> ModuleList:
        """See LanguageModel."""
        return self.bert.encoder.layer

    def features(self, x: Tensor) -> Tensor:
        """See LanguageModel."""
        return self.cls.predictions.transform(x)

    @property
    def output(self) -> Module:
        """See LanguageModel."""
        return self.cls.predictions.decoder

    def decoding(self, ids: Array, use_cache: bool, **options: Any) -> Decoding:
        """Raises TypeError: it sees what comes later, too."""
        raise TypeError("a BERT says what is masked; it does not generate")

    def encode(self, ids: Array, **options: Array) -> Tensor:
        """What the encoder makes of ids (B, T): (B, T, C). Options as for `forward`."""
        positions = np.arange(np.shape(ids)[1])
        x = self.embed(host_array(ids), positions, **options)
        for block in self.blocks:
            x = block(x, *self.for_blocks(ids, positions, **options))
        return x

    def initial_value(self, name: str, shape: tuple[int, ...], seed: int) -> Array:
        """Normal with deviation 0.02; normalizations start with ones, biases with zeros."""
        if len(shape) == 1:
            return np.full(shape, name.endswith("weight"), np.float32)
        return generator(seed, name).standard_normal(shape, np.float32) * np.float32(INITIAL_STD)
