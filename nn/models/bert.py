"""BERT (Devlin et al., "BERT: pre-training of deep bidirectional transformers for language
understanding", 2019), with its masked-language head."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ringlet.nn.autograd.conversion import host_array
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray
from ringlet.nn.containers import ModuleDict, ModuleList
from ringlet.nn.layers.basic import Dropout, Embedding, Linear
from ringlet.nn.layers.normalization import LayerNorm
from ringlet.nn.models.activation import Activation
from ringlet.nn.models.attention import HeadsAttention, key_mask
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.module import Module

__all__ = ["BERT", "BERTConfig"]

TINY = 1e-24
"""Under the root of a length, so that a row of zeros has one."""


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
    tie_word_embeddings: bool = True
    language_head: bool = True
    """False for a sentence encoder, or whatever else uses the encoder's result."""


class BERTEmbeddings(Module):
    """Words, positions and segment types, added and normalized: (B, T) -> (B, T, C)."""

    def __init__(self, config: BERTConfig) -> None:
        width = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, width)
        self.position_embeddings = Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = Embedding(config.type_vocab_size, width)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Array, positions: Array, types: Array) -> Tensor:
        x = self.word_embeddings(ids) + self.token_type_embeddings(types)
        return self.dropout(self.LayerNorm(x + self.position_embeddings(positions)))


class BERTSelfAttention(Module):
    """Every position attends to all that the mask allows: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: BERTConfig) -> None:
        width = config.hidden_size
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.attend = HeadsAttention(
            config.num_attention_heads, dropout=config.attention_probs_dropout_prob
        )

    def forward(self, x: Tensor, mask: Array | None) -> Tensor:
        return self.attend(self.query(x), self.key(x), self.value(x), mask)


class BERTOutput(Module):
    """A linear layer; its result is added to `before` and normalized."""

    def __init__(self, config: BERTConfig, inside: int) -> None:
        self.dense = Linear(inside, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """(B, T, inside), (B, T, C) -> (B, T, C)."""
        return self.LayerNorm(self.dropout(self.dense(x)) + before)


class BERTAttention(Module):
    """Self-attention and what joins its heads; `self` is its name in files."""

    def __init__(self, config: BERTConfig) -> None:
        self.self = BERTSelfAttention(config)
        self.output = BERTOutput(config, config.hidden_size)

    def forward(self, x: Tensor, mask: Array | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.output(self.self(x, mask), x)


class BERTIntermediate(Module):
    """A linear layer and an activation: (B, T, C) -> (B, T, out)."""

    def __init__(self, config: BERTConfig, out: int) -> None:
        self.dense = Linear(config.hidden_size, out)
        self.act = Activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.dense(x))


class BERTBlock(Module):
    """Attention and MLP, each added to its input and then normalized."""

    def __init__(self, config: BERTConfig) -> None:
        self.attention = BERTAttention(config)
        self.intermediate = BERTIntermediate(config, config.intermediate_size)
        self.output = BERTOutput(config, config.intermediate_size)

    def forward(self, x: Tensor, mask: Array | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class BERTTransform(BERTIntermediate):
    """The head's own layer: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(super().forward(x))


class BERT(LanguageModel):
    """An encoder with post-normalization, learned positions and a tied head.

    Logits are those of the words at every position; only masked positions count in the loss: the
    targets of all others are -100. Parameters have the names of Hugging Face's BERT
    (bert.encoder.layer.0.attention.self.query.weight). Without `language_head` a call returns the
    encoder's result (B, T, C); for vectors of sentences see `sentence_embeddings`.
    """

    pooling = "mean"
    """How `sentence_embeddings` pools, as sentence-transformers' 1_Pooling/config.json said."""

    def build(self, config: BERTConfig) -> None:
        self.context_length = config.max_position_embeddings
        blocks = ModuleList([BERTBlock(config) for _ in range(config.num_hidden_layers)])
        self.bert = ModuleDict(embeddings=BERTEmbeddings(config), encoder=ModuleDict(layer=blocks))
        if not config.language_head:
            return
        decoder = Linear(config.hidden_size, config.vocab_size)
        head = ModuleDict(transform=BERTTransform(config), decoder=decoder)
        self.cls = ModuleDict(predictions=head)
        if config.tie_word_embeddings:
            decoder.weight = self.bert.embeddings.word_embeddings.weight

    def embed(
        self,
        ids: Array,
        positions: Array,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
    ) -> Tensor:
        """Ids (B, T), with their segment types (B, T) -> (B, T, C)."""
        self.check_length(positions)
        types = np.zeros_like(ids) if token_type_ids is None else token_type_ids
        return self.bert.embeddings(ids, positions, types)

    def for_blocks(
        self, ids: Array, positions: Array, attention_mask: Any = None, **options: Array
    ) -> tuple[Array | None]:
        """The positions that every position may attend to: where `attention_mask` (B, T) is not
        0."""
        return (key_mask(attention_mask),)

    @property
    def blocks(self) -> ModuleList:
        return self.bert.encoder.layer

    def features(self, x: Tensor) -> Tensor:
        return self.cls.predictions.transform(x)

    @property
    def output(self) -> Module:
        return self.cls.predictions.decoder

    def end(
        self, x: Tensor, targets: Array | Tensor | None, reduction: Literal["mean", "sum"]
    ) -> Tensor:
        if self.config.language_head:
            return super().end(x, targets, reduction)
        if targets is not None:
            raise ValueError(
                "this BERT has no language head, so there is no loss of targets: make one of "
                "`encode` or `sentence_embeddings`"
            )
        return x

    def encode(self, ids: Array, **options: Any) -> Tensor:
        """The encoder's result for ids (B, T): (B, T, C). Options as for `forward`."""
        return self.body(host_array(ids), np.arange(np.shape(ids)[1]), **options)

    def sentence_embeddings(
        self,
        ids: Array,
        attention_mask: Array | None = None,
        *,
        pooling: str = "",
        normalize: bool = False,
        **options: Any,
    ) -> Tensor:
        """A vector for each row of ids (B, T): (B, C), with gradients.

        With a `pooling` of "mean" that of the encoder's result over the positions where
        `attention_mask` (B, T) is not 0, with "cls" the first position's result; by default what
        the model's folder says, or the mean. `normalize` scales it to length 1. Reimers and
        Gurevych, "Sentence-BERT" (2019), section 3.
        """
        pooling = pooling or self.pooling
        x = self.encode(ids, attention_mask=attention_mask, **options)
        if pooling == "mean":
            seen = np.ones(x.shape[:2]) if attention_mask is None else host_array(attention_mask)
            weights = (seen != 0) / np.maximum((seen != 0).sum(axis=1, keepdims=True), 1)
            y = (x * asarray(weights[:, :, None], x.dtype)).sum(1)
        elif pooling == "cls":
            y = x[:, 0]
        else:
            raise ValueError(f"pooling is {pooling!r}; it must be mean or cls")
        return y / ((y * y).sum(-1, keepdim=True) + TINY).sqrt() if normalize else y
