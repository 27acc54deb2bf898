"""Beam search: keep a few likely continuations at a time, and return the likeliest."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.models.generation.decoding import start_decoding
from ringlet.nn.models.generation.sampling import check_ids, end_ids
from ringlet.nn.models.language_model import LanguageModel

__all__ = ["beam_search"]


class Hypothesis(NamedTuple):
    """A continuation and its score."""

    score: float
    ids: list[int]


class _Sample:
    """One row's hypotheses: `ids` of those that continue, and `ended`."""

    def __init__(self, beams: int, penalty: float, ends: list[int]) -> None:
        self.beams, self.penalty, self.ends = beams, penalty, ends
        self.ids: list[list[int]] = [[] for _ in range(beams)]
        self.sums = np.full(beams, -np.inf)
        self.sums[0] = 0.0  # at first all beams are equal: only one counts
        self.ended: list[Hypothesis] = []
        self.done = False

    def step(self, log_p: Array) -> tuple[list[int], list[int]]:
        """Extend by log-probabilities (beams, V): which beams continue, and with which ids."""
        totals = (self.sums[:, None] + log_p).reshape(-1)
        best = np.argsort(-totals, kind="stable")[: (1 + max(1, len(self.ends))) * self.beams]
        found: list[tuple[int, int, float]] = []
        for rank, place in enumerate(best):
            beam, token = divmod(int(place), log_p.shape[1])
            if token in self.ends:  # only among the likeliest: a later one would not be kept
                if rank < self.beams:
                    self._end(totals[place], [*self.ids[beam], token])
            elif len(found) < self.beams:
                found.append((beam, token, totals[place]))
        others = (token for token in range(log_p.shape[1]) if token not in self.ends)
        spare = (0, next(others, 0), -np.inf)
        found += [spare] * (self.beams - len(found))  # fewer candidates than beams
        parents, chosen, sums = map(list, zip(*found, strict=True))
        self.ids = [[*self.ids[b], t] for b, t in zip(parents, chosen, strict=True)]
        self.sums = np.array(sums)
        if len(self.ended) >= self.beams:
            hope = self._score(self.sums.max(), len(self.ids[0]))
            self.done = self.ended[-1].score >= hope
        return parents, chosen

    def _score(self, total: float, length: int) -> float:
        return float(total / np.float64(length) ** self.penalty)

    def _end(self, total: float, ids: list[int]) -> None:
        """Keep it if it is among the best."""
        if not self.done:
            self.ended.append(Hypothesis(self._score(total, len(ids)), ids))
            self.ended = sorted(self.ended, key=lambda each: -each.score)[: self.beams]

    def best(self) -> Hypothesis:
        """The best of all."""
        if not self.done:
            for total, ids in zip(self.sums, self.ids, strict=True):
                self._end(total, ids)
        return self.ended[0]


def beam_search(
    model: LanguageModel,
    ids: Array,
    max_new_tokens: int,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
    eos: int | Collection[int] | None = None,
    use_cache: bool = True,
    **options: Any,
) -> Array:
    """The likeliest continuations found of ids (B, T): as `generate`, (B, T + max_new_tokens).

    Every step keeps the `beams` likeliest continuations. A continuation's score is the sum of its
    tokens' log-probabilities, divided by its length to the power of `length_penalty`. It ends with
    `eos`, an id or one of several; shorter rows are padded with the first one to the length of the
    longest. Rows of different lengths are padded, and an option `attention_mask` (B, T) is 0 there.
    For a T5, `ids` is the source, and the result is the decoder's output, beginning with
    its start token. Graves, "Sequence transduction with recurrent neural networks" (2012), section
    4, with the length's power from Wu et al., "Google's neural machine translation system" (2016),
    section 7.
    """
    check_ids(ids)
    if beams < 1:
        raise ValueError(f"beams is {beams}; it must be at least 1")
    with model.evaluating():
        decoding = start_decoding(model, np.asarray(ids), use_cache, **options)
        ends = end_ids(eos)
        prompt, count = decoding.prompt, len(decoding.prompt)
        samples = [_Sample(beams, length_penalty, ends) for _ in range(count)]
        decoding.select(np.repeat(np.arange(count), beams))
        for _ in range(max_new_tokens):
            log_p = log_softmax(decoding.logits()).reshape(count, beams, -1)
            steps = [each.step(own) for each, own in zip(samples, log_p, strict=True)]
            if all(sample.done for sample in samples):
                break
            rows = [n * beams + beam for n, (parents, _) in enumerate(steps) for beam in parents]
            decoding.select(np.array(rows))
            decoding.add(np.array([token for _, chosen in steps for token in chosen]))
    found = [sample.best().ids for sample in samples] if max_new_tokens else [[]] * count
    longest = max(map(len, found))
    filled = [one + [ends[0] if ends else 0] * (longest - len(one)) for one in found]
    return np.concatenate([prompt, np.array(filled, np.int64).reshape(count, longest)], axis=1)


def log_softmax(logits: Array) -> Array:
    """log(softmax) of rows (B, V), in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
