"""T5 (Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text
transformer", 2020): an encoder and a decoder."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ringlet.nn.autograd.conversion import host_array
from ringlet.nn.autograd.operations.arithmetic import where
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.basic import Embedding, Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.models.attention import key_mask
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.models.t5_blocks import T5Config, T5EncoderBlock, decoder, encoder
from ringlet.nn.module import Module

__all__ = ["T5", "T5Config"]

IGNORED = -100
"""A target that does not count."""


class T5(LanguageModel):
    """Encoder and decoder, RMS pre-normalization, relative positions, tied head.

    Two sequences pass through it: the encoder's, and the decoder's own ids, which attend to the
    encoder's result. Parameters have the names of Hugging Face's T5
    (encoder.block.0.layer.0.SelfAttention.q.weight), except for a few that all blocks share.
    """

    def build(self, config: T5Config) -> None:
        self.eos = (config.eos_token_id,)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder, self.decoder = encoder(config), decoder(config)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.shared.weight

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
        the source positions that both may attend to: where `attention_mask` (B, S) is not 0."""
        source, target = (np.shape(each)[1] for each in ids)
        mask = key_mask(attention_mask)
        return self.source_bias(source, mask), self.decoder.position_bias(target, target), mask

    def source_bias(self, length: int, mask: Array | None) -> Tensor:
        """What is added to the encoder's scores: (1 or B, H, S, S)."""
        bias = self.encoder.position_bias(length, length)
        return bias if mask is None else where(mask, bias, -np.inf)

    def advance(self, block: Module, x: Any, common: tuple[Any, ...], **cache: Any) -> Any:
        """A block changes one of the two sequences."""
        source, target = x
        own, bias, mask = common
        if isinstance(block, T5EncoderBlock):
            return block(source, own), target
        return source, block(target, source, bias, mask, **cache)

    @property
    def blocks(self) -> Sequence[Module]:
        """The encoder's, then the decoder's."""
        return [*self.encoder.block, *self.decoder.block]

    def features(self, x: Any) -> Tensor:
        """(B, S, C) and (B, T, C) -> (B, T, C)."""
        y = self.decoder.final_dropout(self.decoder.final_layer_norm(x[1]))
        return y * (1 / math.sqrt(self.config.d_model)) if self.config.scale_decoder_outputs else y

    def forward(
        self,
        ids: Any,
        targets: Array | Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        caches: Sequence[Any] | None = None,
        decoder_ids: Array | Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Logits (B, T, V), or with targets (B, T) the cross-entropy in nats.

        `ids` (B, S) are the source's; the decoder's ids (B, T) are by default the targets, shifted
        right by one. `attention_mask` (B, S) is 0 where the source is padding.
        """
        if caches is not None:
            raise ValueError("a T5 continues from caches with `decode`, not with a call")
        if decoder_ids is None:
            if targets is None:
                raise ValueError("a T5 needs decoder_ids, or targets to make them from")
            decoder_ids = self.shift_right(targets)
        both = host_array(ids), host_array(decoder_ids)
        positions = tuple(np.arange(each.shape[1]) for each in both)
        return self.end(self.body(both, positions, **options), targets, reduction)

    def shift_right(self, targets: Array | Tensor) -> Array:
        """The decoder's input for the targets (B, T): a start and all but the last; targets that
        do not count become padding."""
        ids = host_array(targets)
        start = np.full((len(ids), 1), self.config.decoder_start_token_id, ids.dtype)
        shifted = np.concatenate([start, ids[:, :-1]], axis=1)
        return np.where(shifted == IGNORED, self.config.pad_token_id, shifted)

    # -- one token after the other ------------------------------------------------------------

    def encode(self, ids: Array, attention_mask: Array | None = None) -> Tensor:
        """The encoder's result for ids (B, S): (B, S, C)."""
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
        """Logits (B, T, V) of the decoder's ids (B, T), which attend to the result of `encode`.

        With caches (two for each block) the ids continue the earlier ones.
        """
        mask = key_mask(attention_mask)
        first = caches[0][0].length if caches else 0
        bias = self.decoder.position_bias(ids.shape[1], first + ids.shape[1], first)
        x = source, self.decoder.dropout(self.shared(ids))
        for number, block in enumerate(self.decoder.block):
            cache = {"cache": caches[number]} if caches else {}
            x = self.advance(block, x, (None, bias, mask), **cache)
        return self.head(x)

    def pair_caches(self) -> list[tuple[KeyValueCache, KeyValueCache]]:
        """Empty caches for `decode`: for the decoder's own and the source's keys and values."""
        return [(KeyValueCache(), KeyValueCache()) for _ in self.decoder.block]

    def initial_std(self, name: str) -> float:
        """T5's own: deviations that preserve scale, since scores are not scaled."""
        config, kind = self.config, name.split(".")[-2]
        variances = {
            "shared": 1.0,
            "q": 1 / (config.d_model * config.d_kv),
            "o": 1 / (config.num_heads * config.d_kv),
            "wo": 1 / config.d_ff,
        }
        return math.sqrt(variances.get(kind, 1 / config.d_model))
