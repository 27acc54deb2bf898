"""The state of a model while it generates: ids in, the next ones' logits out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringlet.nn.autograd.conversion import host_array
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
    """A model that attends to its own output. A row whose context is full continues from its latter
    half.

    The tokens that count are the last `_lengths` (B,) of each row.
    """

    def __init__(
        self, model: LanguageModel, ids: Array, use_cache: bool, attention_mask: Array | None = None
    ) -> None:
        self._model, self._context = model, model.context_length
        self._new_caches = model.caches if use_cache else list[KeyValueCache]
        super().__init__(ids, self._new_caches())
        self._ids, self._lengths = left_padded(ids, attention_mask)
        if self._context:
            self._lengths = np.minimum(self._lengths, min(self._context, ids.shape[1]))
        self._trim()

    def run(self) -> Tensor:
        places, padding = np.arange(self._ids.shape[1]), self._ids.shape[1] - self._lengths
        options = {"attention_mask": places >= padding[:, None]} if padding.any() else {}
        return self._model(self._pending, caches=self._caches, **options)

    def add(self, ids: Array) -> None:
        super().add(ids)
        self._lengths = self._lengths + 1
        if self._context and self._lengths.max() > self._context:
            full = self._lengths > self._context
            self._lengths = np.where(full, self._context // 2 or 1, self._lengths)
            self._trim()
            self._caches = self._new_caches()

    def select(self, rows: Array) -> None:
        super().select(rows)
        self._lengths = self._lengths[rows]

    def _trim(self) -> None:
        """Drop the columns that are padding in all rows; the model sees all others anew."""
        self._ids = self._pending = self._ids[:, -self._lengths.max(initial=1) :]


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
    """The state of a generation from ids (B, T): the prompt's, or the source's of a T5. In both an
    option `attention_mask` (B, T) is 0 for padding.

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


def left_padded(ids: Array, attention_mask: Any) -> tuple[Array, Array]:
    """Each row's tokens at its end, whatever side they were padded on, and how many they are (B,).

    Raises ValueError for a mask of another shape than the ids (B, T), or a row without a token.
    """
    if attention_mask is None:
        return ids, np.full(len(ids), ids.shape[1])
    seen = host_array(attention_mask) != 0
    if seen.shape != ids.shape:
        raise ValueError(f"an attention_mask of shape {seen.shape} for ids of {ids.shape}")
    lengths = seen.sum(axis=1)
    if not lengths.all():
        raise ValueError(f"row {int(lengths.argmin())} of the ids is padding only")
    return np.take_along_axis(ids, np.argsort(seen, axis=1, kind="stable"), axis=1), lengths
