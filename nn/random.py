"""Counter-based random numbers: a draw depends on its purpose, not on what was drawn before.

Every stream is a Philox generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011) whose key is a hash of a seed and labels: a parameter's name, a layer's path. So every
process, on every mesh, draws the same numbers for the same purpose.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


def key(seed: int, *labels: str | int) -> int:
    """A 128-bit key for the labels under a seed."""
    text = "\0".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """The generator for the labels, at its start."""
    return np.random.Generator(np.random.Philox(key=key(seed, *labels)))


class _Stream:
    """Draws without a label: each differs from the one before."""

    seed, drawn = 0, 0


_stream = _Stream()


def manual_seed(seed: int) -> None:
    """Restart the stream of `nn.init` and of new layers."""
    _stream.seed, _stream.drawn = seed, 0


def next_generator(given: np.random.Generator | None = None) -> np.random.Generator:
    """The generator that is given; without one, a new one for the next draw of the stream."""
    if given is not None:
        return given
    _stream.drawn += 1
    return generator(_stream.seed, "stream", _stream.drawn)


def next_seed() -> int:
    """A seed for the next new layer, from the stream."""
    _stream.drawn += 1
    return key(_stream.seed, "layer", _stream.drawn)


@dataclass(frozen=True, kw_only=True, eq=False)
class scope:
    """Make dropout depend on (seed, step, global sample index, layer) only, inside the block.

    `first_sample` is the global index of the batch's first row, so that a batch split over workers
    or micro-batches draws the masks of the whole. If axis 1 is only a part of the sequence,
    `positions` says which of its `length` positions. `loss_scale` is the factor by which the loss
    will be multiplied: layers with a loss of their own use it too. Outside any scope every draw
    differs from the one before (`counting`).
    """

    seed: int
    step: int
    first_sample: int = 0
    loss_scale: float | None = None
    positions: Array | None = None
    length: int = 0
    counting: bool = False

    def __enter__(self) -> None:
        _scopes.append(self)

    def __exit__(self, *error: object) -> None:
        _scopes.pop()


_scopes = [scope(seed=0, step=0, counting=True)]


def current() -> scope:
    """The current scope; entered again, a repeated forward pass draws the same again."""
    return _scopes[-1]


def loss_scale() -> float | None:
    """The loss's factor in the current scope, or None."""
    return current().loss_scale


def sample_generators(samples: int, path: str) -> Iterator[np.random.Generator]:
    """A generator for each row of a batch, for the layer at `path`, in the current scope."""
    here = current()
    if here.counting:
        here = _scopes[-1] = replace(here, step=here.step + 1)
    stream, step, first = key(here.seed, path), here.step, here.first_sample
    for sample in range(first, first + samples):
        yield np.random.Generator(np.random.Philox(key=stream, counter=[0, sample, step, 0]))
