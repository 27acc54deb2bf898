"""Text as numbers, and batches of it as a pure function of (seed, step)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringlet.nn.autograd.tensor import Array
from ringlet.nn.random import generator

BUILT_IN = "pydoc"
"""The text that every CPython carries: the topics of its documentation."""

VALIDATION_SHARE = 0.1
BYTES = 256


class DataError(ValueError):
    """The data cannot be trained on; the message says why, and about which file."""


@dataclass(frozen=True)
class Corpus:
    """A text as token ids: the first nine tenths for training, the rest for validation."""

    name: str
    train: Array
    validation: Array
    vocab_size: int
    as_bytes: bool


def load_corpus(source: str, block_size: int, vocab_size: int | None = None) -> Corpus:
    """Load the corpus for training with contexts of `block_size`; raises DataError.

    `source` is the built-in text (`pydoc`) or a file: a `.bin` holds uint16 ids as nanoGPT writes
    them, any other is read byte by byte, whatever its encoding. The vocabulary of a `.bin` is
    `vocab_size`, or just large enough for its ids.
    """
    if source == BUILT_IN:
        tokens, name, as_bytes = _python_documentation(), BUILT_IN, True
    else:
        path = Path(source)
        tokens, name, as_bytes = _read(path), path.stem, path.suffix != ".bin"
    needed = BYTES if as_bytes else int(tokens.max()) + 1
    size = vocab_size or needed
    if needed > size:
        raise DataError(f"{source} holds id {needed - 1}, the vocabulary has {size} ids")
    split = len(tokens) - int(len(tokens) * VALIDATION_SHARE)
    corpus = Corpus(name, tokens[:split], tokens[split:], size, as_bytes)
    shorter = min(len(corpus.train), len(corpus.validation))
    if shorter < block_size + 1:
        raise DataError(
            f"{source} is too short: its {len(tokens)} tokens leave {shorter} for the shorter of "
            f"training and validation, and one context takes {block_size} and the next token"
        )
    return corpus


def _python_documentation() -> Array:
    try:
        from pydoc_data import topics
    except ImportError as error:
        raise DataError(
            f"this Python came without the text {BUILT_IN} (pydoc_data); name a file with --data"
        ) from error
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    return np.frombuffer(text.encode(), np.uint8)


def _read(path: Path) -> Array:
    if not path.is_file():
        raise DataError(f"there is no data file {path}")
    size = path.stat().st_size
    if not size:
        raise DataError(f"the data file {path} is empty")
    if path.suffix == ".bin" and size % 2:
        raise DataError(f"{path} has an odd number of bytes; a .bin file holds uint16 ids")
    try:
        return np.memmap(path, "<u2" if path.suffix == ".bin" else np.uint8, "r")
    except OSError as error:
        raise DataError(f"cannot read the data file {path}: {error.strerror}") from error


def token_bytes(token: int) -> bytes:
    """A byte-level model's token; ids beyond the bytes (in a larger vocabulary) give U+FFFD."""
    return bytes([token]) if token < BYTES else "\ufffd".encode()


def training_batch(
    corpus: Corpus, block_size: int, batch_size: int, seed: int, step: int, first: int, count: int
) -> tuple[Array, Array]:
    """Samples `first` to `first + count` of a step's batch: ids and targets, (count, T) int64.

    The whole batch depends on (seed, step) only, whichever rank takes which part.
    """
    random = generator(seed, "batch", step)
    offsets = random.integers(0, len(corpus.train) - block_size, batch_size)
    return windows(corpus.train, offsets[first : first + count], block_size)


def windows(tokens: Array, offsets: Array, block_size: int) -> tuple[Array, Array]:
    """Contexts at the offsets and the same shifted by one: (len(offsets), T) int64 each."""
    rows = np.asarray(tokens[offsets[:, None] + np.arange(block_size + 1)], np.int64)
    return rows[:, :-1], rows[:, 1:]


def validation_offsets(corpus: Corpus, block_size: int, most: int) -> Array:
    """Where validation contexts start: side by side, or `most` of them, evenly spread."""
    available = (len(corpus.validation) - 1) // block_size
    chosen = np.arange(available)
    if available > most:
        chosen = np.arange(most) * available // most
    return chosen * block_size
