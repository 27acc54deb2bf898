"""Random numbers by counter: what is drawn depends on what it is for, not on what was drawn before.

Every stream is a Philox generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011) whose key is a hash of a seed and labels: the name of a parameter, a layer's path. So every
process, on every mesh, draws the same numbers for the same thing.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def key(seed: int, *labels: str | int) -> int:
    """A 128-bit key for the labels under a seed."""
    text = "\0".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """The generator for what the labels name, at its start."""
    return np.random.Generator(np.random.Philox(key=key(seed, *labels)))


@dataclass
class _Scope:
    seed: int
    step: int
    first_sample: int
    counting: bool


_scope = _Scope(seed=0, step=0, first_sample=0, counting=True)


@contextlib.contextmanager
def scope(*, seed: int, step: int, first_sample: int = 0) -> Iterator[None]:
    """Within it dropout depends on (seed, step, global number of the sample, layer) only.

    `first_sample` is the global number of the batch's first row, so that a batch that is split
    over workers or micro-batches draws the masks of the whole. Outside any scope every draw
    differs from the one before.
    """
    global _scope
    before, _scope = _scope, _Scope(seed, step, first_sample, counting=False)
    try:
        yield
    finally:
        _scope = before


def sample_generators(samples: int, path: str) -> Iterator[np.random.Generator]:
    """One generator for each row of a batch, for the layer at `path`, in the current scope."""
    if _scope.counting:
        _scope.step += 1
    stream, step, first = key(_scope.seed, path), _scope.step, _scope.first_sample
    for sample in range(first, first + samples):
        yield np.random.Generator(np.random.Philox(key=stream, counter=[0, sample, step, 0]))
