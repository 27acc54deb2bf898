"""What a model goes through while it generates: ids in, the next ones' logits out."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ringlet.nn.autograd.grad_mode import no_grad
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array, asarray, to_host
from ringlet.nn.layers.cache import KeyValueCache


class Decoding(Protocol):
    """The state of a batch of sequences that are being continued.

    `prompt` (B, T) is what they begin with, a start for the decoder of an encoder-decoder.
    """

    prompt: Array

    def logits(self) -> Array:
        """(B, V) on the host: of the ids that come next."""

    def add(self, ids: Array) -> None:
        """The next ids (B,) are these."""

    def select(self, rows: Array) -> None:
        """Go on with these rows of the batch, in this order; one may be there more than once."""


class Continuing:
    """The ids of a model that sees what it has said. When its context is full, it goes on from
    the latter half."""

    def __init__(self, model: Any, ids: Array, use_cache: bool) -> None:
        self._model, self._context, self._use_cache = model, model.context_length, use_cache
        self.prompt = np.asarray(ids)
        self._window = self.prompt[:, -self._context :] if self._context else self.prompt
        self._restart()

    def _restart(self) -> None:
        self._pending = self._window
        self._caches: list[KeyValueCache] | None = self._model.caches() if self._use_cache else None

    def logits(self) -> Array:
        """See Decoding."""
        with no_grad():
            logits = self._model(self._pending, caches=self._caches).data[:, -1]
        return to_host(logits)

    def add(self, ids: Array) -> None:
        """See Decoding."""
        self._window = np.concatenate([self._window, ids[:, None]], axis=1)
        self._pending = ids[:, None] if self._use_cache else self._window
        if self._context and self._window.shape[1] > self._context:
            self._window = self._window[:, -(self._context // 2 or 1) :]
            self._restart()

    def select(self, rows: Array) -> None:
        """See Decoding."""
        self._window, self._pending = self._window[rows], self._pending[rows]
        for cache in self._caches or ():
            cache.select(rows)


class Translating:
    """The decoder's ids of a model that encodes a source first."""

    def __init__(
        self, model: Any, ids: Array, use_cache: bool, attention_mask: Array | None = None
    ) -> None:
        self._model, self._mask = model, attention_mask
        with no_grad():
            self._source: Tensor = model.encode(ids, attention_mask)
        self.prompt = model.prompt(ids)
        self._said = self._pending = self.prompt
        self._caches: Sequence[tuple[KeyValueCache, KeyValueCache]] | None = (
            model.pair_caches() if use_cache else None
        )

    def logits(self) -> Array:
        """See Decoding."""
        with no_grad():
            result = self._model.decode(self._pending, self._source, self._mask, self._caches)
        logits = result.data[:, -1]
        return to_host(logits)

    def add(self, ids: Array) -> None:
        """See Decoding."""
        self._said = np.concatenate([self._said, ids[:, None]], axis=1)
        self._pending = ids[:, None] if self._caches else self._said

    def select(self, rows: Array) -> None:
        """See Decoding."""
        self._said, self._pending = self._said[rows], self._pending[rows]
        self._source = Tensor(self._source.data[asarray(rows)])
        if self._mask is not None:
            self._mask = self._mask[rows]
        for pair in self._caches or ():
            for cache in pair:
                cache.select(rows)
