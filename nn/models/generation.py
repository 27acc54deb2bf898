"""Generation: one token after the other, with the keys and values of the past in a cache."""

from collections.abc import Iterator
from typing import TypedDict, Unpack

import numpy as np

from ringlet.nn.cache import KeyValueCache
from ringlet.nn.models.gpt import GPT
from ringlet.nn.random import generator
from ringlet.nn.tensor import Array, no_grad


class Sampling(TypedDict, total=False):
    """How `stream` chooses each token."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    use_cache: bool


def stream(
    model: GPT,
    ids: Array,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    use_cache: bool = True,
) -> Iterator[Array]:
    """Continue each row of ids (B, T), T >= 1: yields `max_new_tokens` times the next ids (B,).

    Temperature 0 takes the likeliest token; else it is drawn from the `top_k` likeliest, of those
    from the smallest set with a probability of `top_p` (Holtzman et al., "The curious case of
    neural text degeneration", 2020). The draws depend on (seed, position) only. When the context
    is full, the model goes on from its latter half.
    """
    _check(ids, temperature, top_k, top_p)
    context = model.config.block_size
    was_training = model.training
    model.eval()
    try:
        window = np.asarray(ids)[:, -context:]
        pending, caches = window, _caches(model) if use_cache else None
        for position in range(max_new_tokens):
            with no_grad():
                logits = model(pending, caches=caches).data[:, -1]  # (B, V)
            chosen = _choose(logits, temperature, top_k, top_p, generator(seed, position))
            yield chosen
            window = np.concatenate([window, chosen[:, None]], axis=1)
            pending = chosen[:, None] if use_cache else window
            if window.shape[1] > context:
                window = window[:, -(context // 2 or 1) :]
                pending, caches = window, _caches(model) if use_cache else None
    finally:
        model.train(was_training)


def generate(model: GPT, ids: Array, max_new_tokens: int, **options: Unpack[Sampling]) -> Array:
    """The ids (B, T) with their continuation: (B, T + max_new_tokens). Options as for `stream`."""
    parts = stream(model, ids, max_new_tokens, **options)
    return np.concatenate([np.asarray(ids), *(part[:, None] for part in parts)], axis=1)


def _caches(model: GPT) -> list[KeyValueCache]:
    return [KeyValueCache(model.config.block_size) for _ in range(model.config.n_layer)]


def _check(ids: Array, temperature: float, top_k: int | None, top_p: float | None) -> None:
    if np.ndim(ids) != 2 or not np.shape(ids)[1]:
        raise ValueError(f"ids of shape {np.shape(ids)}: a batch of rows of at least one id each")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; it has to be 0 or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it has to be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it has to be above 0 and at most 1")


def _choose(
    logits: Array,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    random: np.random.Generator,
) -> Array:
    """The next ids (B,) from logits (B, V)."""
    if temperature == 0:
        return np.asarray(np.argmax(logits, axis=1))
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled, axis=1, kind="stable")  # likeliest first
    ranked = np.take_along_axis(scaled, order, axis=1)
    if top_k is not None:
        ranked[:, top_k:] = -np.inf
    probabilities = np.exp(ranked - ranked[:, :1])
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if top_p is not None:
        before = np.cumsum(probabilities, axis=1) - probabilities
        probabilities[before >= top_p] = 0
    cumulative = np.cumsum(probabilities, axis=1)
    draws = random.random((len(logits), 1)) * cumulative[:, -1:]
    ranks = (cumulative <= draws).sum(axis=1)
    return np.asarray(order[np.arange(len(order)), ranks])
