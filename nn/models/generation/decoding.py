"""The state of a model while it generates: ids in, the next ones' logits out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn.autograd.grad_mode import no_grad
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray, to_host
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.models.bert import BERT
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.models.t5 import T5


class Decoding:
    """The state of a batch of sequences that are being continued.

    `prompt` (B, T) is what they begin with; for an encoder-decoder, the decoder's start.
    """

    def __init__(self, prompt: Array, caches: Sequence[KeyValueCache]) -> None:
        self.prompt = self._ids = self._pending = prompt
        self._caches = caches

    def run(self) -> Tensor:
        """The model's logits (B, T, V) of the ids that it has not seen yet."""
        raise NotImplementedError

    def logits(self) -> Array:
        """The logits (B, V) of the next ids, on the host."""
        with no_grad():
            return to_host(self.run().data[:, -1])

    def add(self, ids: Array) -> None:
        """Append the next ids (B,)."""
        self._ids = np.concatenate([self._ids, ids[:, None]], axis=1)
        self._pending = ids[:, None] if self._caches else self._ids

    def select(self, rows: Array) -> None:
        """Continue with these rows of the batch, in this order; rows may be repeated."""
        self._ids, self._pending = self._ids[rows], self._pending[rows]
        for cache in self._caches:
            cache.select(rows)


class DecoderOnly(Decoding):
    """A model that attends to its own output. When its context is full, it continues from the
    latter half."""

    def __init__(self, model: LanguageModel, ids: Array, use_cache: bool) -> None:
        self._model, self._context = model, model.context_length
        self._new_caches = model.caches if use_cache else list[KeyValueCache]
        super().__init__(ids, self._new_caches())
        self._ids = self._pending = ids[:, -self._context :] if self._context else ids

    def run(self) -> Tensor:
        return self._model(self._pending, caches=self._caches)

    def add(self, ids: Array) -> None:
        super().add(ids)
        if self._context and self._ids.shape[1] > self._context:
            self._ids = self._pending = self._ids[:, -(self._context // 2 or 1) :]
            self._caches = self._new_caches()


class EncoderDecoder(Decoding):
    """The decoder of a model that encodes a source first."""

    def __init__(
        self, model: T5, ids: Array, use_cache: bool, attention_mask: Array | None = None
    ) -> None:
        self._model, self._mask = model, attention_mask
        self._pairs = model.pair_caches() if use_cache else []
        super().__init__(prompt_of(model, ids), [cache for pair in self._pairs for cache in pair])
        with no_grad():
            self._source = model.encode(ids, attention_mask)

    def run(self) -> Tensor:
        return self._model.decode(self._pending, self._source, self._mask, self._pairs)

    def select(self, rows: Array) -> None:
        super().select(rows)
        self._source = Tensor(self._source.data[asarray(rows)])
        if self._mask is not None:
            self._mask = self._mask[rows]


def start_decoding(model: LanguageModel, ids: Array, use_cache: bool, **options: Any) -> Decoding:
    """The state of a generation from ids (B, T): the prompt's, or the source's of a T5.

    Raises TypeError for a BERT.
    """
    if isinstance(model, BERT):
        raise TypeError("a BERT predicts masked words; it does not generate")
    if isinstance(model, T5):
        return EncoderDecoder(model, ids, use_cache, **options)
    return DecoderOnly(model, ids, use_cache, **options)


def prompt_of(model: LanguageModel, ids: Array) -> Array:
    """What a generation from these ids begins with, (B, T)."""
    if isinstance(model, T5):
        return np.full((len(ids), 1), model.config.decoder_start_token_id, np.int64)
    return ids
