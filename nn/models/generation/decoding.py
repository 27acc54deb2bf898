"""The state of a model while it generates: ids in, the next ones' logits out."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ringlet.nn.autograd.grad_mode import no_grad
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray, to_host
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.models.bert import BERT
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.models.t5 import T5


class Decoding(Protocol):
    """The state of a batch of sequences that are being continued.

    `prompt` (B, T) is what they begin with; for an encoder-decoder, the decoder's start.
    """

    prompt: Array

    def logits(self) -> Array:
        """The logits (B, V) of the next ids, on the host."""

    def add(self, ids: Array) -> None:
        """Append the next ids (B,)."""

    def select(self, rows: Array) -> None:
        """Continue with these rows of the batch, in this order; rows may be repeated."""


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


class DecoderOnly:
    """The ids of a model that attends to its own output. When its context is full, it continues
    from the latter half."""

    def __init__(self, model: LanguageModel, ids: Array, use_cache: bool) -> None:
        self._model, self._context, self._use_cache = model, model.context_length, use_cache
        self.prompt = np.asarray(ids)
        self._window = self.prompt[:, -self._context :] if self._context else self.prompt
        self._restart()

    def _restart(self) -> None:
        self._pending = self._window
        self._caches: list[KeyValueCache] | None = self._model.caches() if self._use_cache else None

    def logits(self) -> Array:
        with no_grad():
            return to_host(self._model(self._pending, caches=self._caches).data[:, -1])

    def add(self, ids: Array) -> None:
        self._window = np.concatenate([self._window, ids[:, None]], axis=1)
        self._pending = ids[:, None] if self._use_cache else self._window
        if self._context and self._window.shape[1] > self._context:
            self._window = self._window[:, -(self._context // 2 or 1) :]
            self._restart()

    def select(self, rows: Array) -> None:
        self._window, self._pending = self._window[rows], self._pending[rows]
        for cache in self._caches or ():
            cache.select(rows)


class EncoderDecoder:
    """The decoder's ids of a model that encodes a source first."""

    def __init__(
        self, model: T5, ids: Array, use_cache: bool, attention_mask: Array | None = None
    ) -> None:
        self._model, self._mask = model, attention_mask
        with no_grad():
            self._source = model.encode(ids, attention_mask)
        self.prompt = prompt_of(model, ids)
        self._said = self._pending = self.prompt
        self._caches: Sequence[tuple[KeyValueCache, KeyValueCache]] | None = (
            model.pair_caches() if use_cache else None
        )

    def logits(self) -> Array:
        with no_grad():
            result = self._model.decode(self._pending, self._source, self._mask, self._caches)
        return to_host(result.data[:, -1])

    def add(self, ids: Array) -> None:
        self._said = np.concatenate([self._said, ids[:, None]], axis=1)
        self._pending = ids[:, None] if self._caches else self._said

    def select(self, rows: Array) -> None:
        self._said, self._pending = self._said[rows], self._pending[rows]
        self._source = Tensor(self._source.data[asarray(rows)])
        if self._mask is not None:
            self._mask = self._mask[rows]
        for pair in self._caches or ():
            for cache in pair:
                cache.select(rows)
