"""Which context comes when: each once in every epoch, in an order of its own, and those of several
texts in fixed proportions. All of it is a function of the seed and the sample's number, so that any
rank finds its samples by itself, and a run that resumes goes on where it was."""

from collections.abc import Sequence

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.random import generator, key

SLOTS = 10_000
"""Samples in which every text has its share."""

ROUNDS = 4
"""Of the Feistel network: enough to look like chance."""


class Order:
    """The order of contexts of `block` tokens in texts of these lengths (in tokens), each with a
    weight: its share of the samples."""

    def __init__(
        self, lengths: Sequence[int], weights: Sequence[float], block: int, seed: int
    ) -> None:
        self._lengths, self._block, self._seed = lengths, block, seed
        self.contexts = np.array([max(1, (length - block) // block) for length in lengths])
        counts = shares(weights, SLOTS) if len(lengths) > 1 else [1]
        rows = np.repeat(np.arange(len(lengths)), counts)
        self._slots = generator(seed, "texts").permutation(rows)
        self._counts = np.array(counts)
        self._before = np.zeros(len(rows), np.int64)  # of the slots of the same text
        for text in range(len(lengths)):
            mine = self._slots == text
            self._before[mine] = np.arange(mine.sum())

    def find(self, numbers: Array) -> tuple[Array, Array]:
        """The texts of the samples of these numbers, and the offsets of their contexts there."""
        rounds, slots = np.divmod(numbers, len(self._slots))
        texts = self._slots[slots]
        own = rounds * self._counts[texts] + self._before[slots]
        epochs, places = np.divmod(own, self.contexts[texts])
        offsets = np.empty(len(numbers), np.int64)
        for text, epoch in set(zip(texts.tolist(), epochs.tolist(), strict=True)):
            mine = (texts == text) & (epochs == epoch)
            contexts = int(self.contexts[text])
            label = key(self._seed, "epoch", text, epoch)
            chosen = shuffled(places[mine], contexts, label & (2**64 - 1))
            # Contexts begin elsewhere in every epoch.
            room = self._lengths[text] - contexts * self._block
            shift = (label >> 64) % max(1, min(room, self._block))
            offsets[mine] = chosen * self._block + shift
        return texts, offsets

    def epochs(self, samples: int) -> list[float]:
        """How often each text has been seen after so many samples."""
        rounds, rest = divmod(samples, len(self._slots))
        seen = np.bincount(self._slots[:rest], minlength=len(self._counts))
        return ((rounds * self._counts + seen) / self.contexts).tolist()


def shares(weights: Sequence[float], slots: int) -> list[int]:
    """So many slots in proportion to the weights, at least one for each."""
    exact = np.array(weights) * slots / sum(weights)
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    while (missing := slots - int(counts.sum())) != 0:
        step = 1 if missing > 0 else -1
        wanted = np.where(counts + step > 0, (exact - counts) * step, -np.inf)
        counts[np.argmax(wanted)] += step
    return [int(count) for count in counts]


def shuffled(numbers: Array, size: int, secret: int) -> Array:
    """Each number below `size` in another order: its place, int64. A Feistel network that is walked
    until the result is below the size (Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002), so that no list of all is needed."""
    half = max(1, -(-(size - 1).bit_length() // 2))
    mask, secrets = (
        np.uint64(2**half - 1),
        _mixed(np.uint64(secret) + np.arange(ROUNDS, dtype="u8")),
    )
    found = numbers.astype(np.uint64)
    left = np.ones(len(found), bool)
    while left.any():
        high, low = found[left] >> np.uint64(half), found[left] & mask
        for number in secrets:
            high, low = low, high ^ (_mixed(low ^ number) & mask)
        found[left] = high << np.uint64(half) | low
        left = found >= size
    return found.astype(np.int64)


def _mixed(x: Array) -> Array:
    """SplitMix64's last step (Steele, Lea and Flood, 2014): every bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
