"""Generation: one token after the other, with the keys and values of the past in a cache."""

from collections.abc import Collection, Iterator
from typing import Any, TypedDict, Unpack

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.models.generation.decoding import prompt_of, start_decoding
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.random import generator

__all__ = ["generate", "stream"]


class Sampling(TypedDict, total=False):
    """How `stream` chooses each token."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    use_cache: bool
    eos: int | Collection[int] | None
    attention_mask: Array | None


def stream(
    model: LanguageModel,
    ids: Array,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    use_cache: bool = True,
    eos: int | Collection[int] | None = None,
    **options: Any,
) -> Iterator[Array]:
    """Continue each row of ids (B, T), T >= 1: yields `max_new_tokens` times the next ids (B,).

    Temperature 0 takes the likeliest token. Otherwise the token is drawn from the `top_k`
    likeliest, and of those from the smallest set with a total probability of `top_p` (Holtzman et
    al., "The curious case of neural text degeneration", 2020). The draws depend on (seed,
    position) only. When a row's context is full, it continues from its latter half. After `eos`
    (an id, or one of several) a row repeats it, and generation ends when all rows have ended. Rows
    of different lengths are padded, on either side, and an option `attention_mask` (B, T) is 0
    there: each continues as it would alone. For a T5, `ids` is the source. The model is in
    evaluation mode until the end; then each of its modules is in its own mode again.
    """
    check_ids(ids)
    _check(temperature, top_k, top_p)
    given = {name: value for name, value in options.items() if value is not None}
    with model.evaluating():
        decoding = start_decoding(model, np.asarray(ids), use_cache, **given)
        ends, ended = end_ids(eos), np.zeros(len(decoding.prompt), bool)
        last = np.zeros(len(ended), np.int64)
        for position in range(max_new_tokens):
            random = generator(seed, position)
            chosen = _choose(decoding.logits(), temperature, top_k, top_p, random)
            last = chosen = np.where(ended, last, chosen)
            ended |= np.isin(chosen, ends)
            yield chosen
            if ended.all():
                return
            decoding.add(chosen)


def generate(
    model: LanguageModel, ids: Array, max_new_tokens: int, **options: Unpack[Sampling]
) -> Array:
    """The ids (B, T) with their continuation: (B, T + max_new_tokens). Options as for `stream`.

    For a T5 it is the decoder's output, beginning with its start token.
    """
    ids = np.asarray(ids)
    prompt = prompt_of(model, ids)
    parts = stream(model, ids, max_new_tokens, **options)
    return np.concatenate([prompt, *(part[:, None] for part in parts)], axis=1)


def end_ids(eos: int | Collection[int] | None) -> list[int]:
    """The ids that end a text."""
    return [] if eos is None else [eos] if isinstance(eos, int | np.integer) else list(eos)


def check_ids(ids: Array) -> None:
    """Raise ValueError unless ids are a batch of rows (B, T), T >= 1."""
    if np.ndim(ids) != 2 or not np.shape(ids)[1]:
        raise ValueError(
            f"ids have shape {np.shape(ids)}; they must be a batch of rows of at least one id"
        )


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; it must be 0 or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")


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
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=1, keepdims=True)  # before it is divided: no difference overflows
    with np.errstate(over="ignore"):
        scaled /= temperature
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
