"""Text as numbers, and batches of it as a pure function of (seed, step)."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ringlet.nn.autograd.tensor import Array
from ringlet.nn.random import generator
from ringlet.runtime.text.build import Progress
from ringlet.runtime.text.cache import cache_folder, cached, silent, write_once
from ringlet.runtime.text.encoder import tokenizer_file
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import TextFolder, is_text_folder
from ringlet.runtime.text.order import Order, shares
from ringlet.runtime.text.spans import Span, Spans
from ringlet.runtime.training.run_tokenizer import RunTokenizer
from ringlet.runtime.training.tokenizers import TokenizerError

BUILT_IN = "pydoc"
"""The text that every CPython carries: the topics of its documentation."""

VALIDATION_SHARE = 0.1
BYTES = 256


class DataError(ValueError):
    """The data cannot be trained on; the message says why, and about which file."""


@dataclass(frozen=True)
class Corpus:
    """A text as token ids: the first nine tenths for training, the rest for validation.

    Both are an array, or of `folders`, which have a share of the samples by their `weights`, spans.
    """

    name: str
    train: Array | Spans
    validation: Array | Spans
    vocab_size: int
    as_bytes: bool
    folders: tuple[TextFolder, ...] = ()
    weights: tuple[float, ...] = ()
    tokenizer: RunTokenizer | None = None

    @property
    def training_bytes(self) -> float | None:
        """Bytes of text for each token of training, if that is known."""
        if not isinstance(self.train, Spans):
            return 1.0 if self.as_bytes else None
        return float(
            np.average([x.bytes_per_token for x in self.train.spans], weights=self.weights)
        )

    def digest(self) -> str:
        """A checksum of all tokens."""
        if isinstance(self.train, Spans) or isinstance(self.validation, Spans):
            return " ".join(folder.digest for folder in self.folders)
        return hashlib.sha256(self.train.tobytes() + self.validation.tobytes()).hexdigest()

    def validation_bytes(self, offsets: Array) -> float | None:
        """The same of validation contexts at these offsets."""
        if not isinstance(self.validation, Spans):
            return 1.0 if self.as_bytes else None
        return self.validation.bytes_per_token(offsets)


def load_corpus(
    source: str,
    block_size: int,
    vocab_size: int | None = None,
    tokenizer: str = "",
    progress: Progress = silent,
) -> Corpus:
    """Load the corpus for training with contexts of `block_size`; raises DataError.

    `source` is the built-in text (`pydoc`) or a file: a `.bin` holds uint16 ids as nanoGPT writes
    them, any other is read byte by byte, whatever its encoding. The vocabulary of a `.bin` is
    `vocab_size`, or just large enough for its ids. Or it is a folder that `ringlet data build` has
    made, or several with weights, as in a=3,b=1; with a `tokenizer` text from which such folders
    are built in the cache, where they stay. Of a `.bin` it is the one that made the ids.
    """
    parts = _parts(source)
    if Path(source).suffix == ".bin" and Path(source).is_file():
        corpus = _with_tokenizer(source, _load_file(source), tokenizer)
    elif tokenizer or parts != [(source, 1.0)] or is_text_folder(Path(source)):
        corpus = _load_folders(source, parts, tokenizer, progress)
    else:
        corpus = _load_file(source)
    needed = corpus.vocab_size
    if needed > (vocab_size or needed):
        what = f"{source} holds id {needed - 1}"
        if corpus.tokenizer is not None:
            what = f"the tokenizer of {source} has {needed} ids"
        raise DataError(f"{what}, the vocabulary (vocab_size) has {vocab_size} ids")
    _check_length(source, corpus, block_size)
    return replace(corpus, vocab_size=vocab_size or needed)


def takes_tokenizer(source: str) -> bool:
    """Whether a tokenizer makes a difference to this data: not to folders of tokens."""
    return not any(is_text_folder(Path(path)) for path, _ in _parts(source))


def _load_file(source: str) -> Corpus:
    if source == BUILT_IN:
        tokens, name, as_bytes = _python_documentation(), BUILT_IN, True
    else:
        path = Path(source)
        tokens, name, as_bytes = _read(path), path.stem, path.suffix != ".bin"
    size = BYTES if as_bytes else int(tokens.max()) + 1
    split = len(tokens) - int(len(tokens) * VALIDATION_SHARE)
    return Corpus(name, tokens[:split], tokens[split:], size, as_bytes)


def _with_tokenizer(source: str, corpus: Corpus, tokenizer: str) -> Corpus:
    """Ids whose tokenizer is named, if it is."""
    if not tokenizer:
        return corpus
    try:
        made_by = RunTokenizer.at(tokenizer_file(Path(tokenizer)))
        known = made_by.vocab_size
    except TokenizerError as error:
        raise DataError(str(error)) from error
    if corpus.vocab_size > known:
        raise DataError(f"{source} holds id {corpus.vocab_size - 1}; {tokenizer} has {known} ids")
    return replace(corpus, tokenizer=made_by, vocab_size=known)


def _check_length(source: str, corpus: Corpus, block_size: int) -> None:
    halves = corpus.train, corpus.validation
    lengths = [np.diff(each.bases) if isinstance(each, Spans) else [len(each)] for each in halves]
    total, shorter = sum(map(len, halves)), min(int(min(each)) for each in lengths)
    if shorter < block_size + 1:
        raise DataError(
            f"{source} is too short: its {total} tokens leave {shorter} for the shorter of "
            f"training and validation, and one context takes {block_size} and the next token"
        )


def _parts(source: str) -> list[tuple[str, float]]:
    """Paths and weights, from a=3,b=1; a path that exists is one."""
    if source == BUILT_IN or Path(source).exists() or not set(source) & {"=", ","}:
        return [(source, 1.0)]
    found = []
    for part in source.split(","):
        path, equals, weight = part.rpartition("=")
        if not equals:
            path, weight = part, "1"
        good = re.fullmatch(r"\d{1,9}(\.\d{1,9})?", weight) and float(weight)
        if not path or not good:
            what = "a weight that is no positive number" if path else "no name"
            raise DataError(
                f"{source}: there is no such file, and as folders with weights, as in a=3,b=1, "
                f"{part!r} has {what}"
            )
        found.append((path, float(weight)))
    paths = [os.path.realpath(path) for path, _ in found]
    for number, (path, _) in enumerate(found):
        if paths[number] in paths[:number]:
            raise DataError(f"{source} has {path} twice: give it one weight")
    return found


def _load_folders(
    source: str, parts: Sequence[tuple[str, float]], tokenizer: str, progress: Progress
) -> Corpus:
    """The corpus of some folders that `ringlet data build` has made, or is made here."""
    folders = []
    try:
        for path, _ in parts:
            folders.append(_folder(path, tokenizer, progress))
    except TextError as error:
        raise DataError(str(error)) from error
    for (path, _), folder in zip(parts, folders, strict=True):
        if folder.tokenizer_digest != folders[0].tokenizer_digest:
            raise DataError(f"{parts[0][0]} and {path} were made by different tokenizers")
    splits = [_split(folder) for folder in folders]
    train = [Span(folder, 0, split) for folder, split in zip(folders, splits, strict=True)]
    rest = [Span(each, split, each.tokens) for each, split in zip(folders, splits, strict=True)]
    file = tokenizer_file(Path(tokenizer)) if tokenizer else folders[0].tokenizer
    return Corpus(
        "-".join(Path(path).stem for path, _ in parts),
        Spans(train),
        Spans(rest),
        folders[0].vocab_size,
        as_bytes=False,
        folders=tuple(folders),
        weights=tuple(weight for _, weight in parts),
        tokenizer=RunTokenizer(file, folders[0].end_of_text),
    )


def _folder(path: str, tokenizer: str, progress: Progress) -> TextFolder:
    """A folder of tokens, or text that is made into one."""
    if not tokenizer:
        if not is_text_folder(Path(path)):
            raise DataError(f"there is no folder {path} that `ringlet data build` has made")
        return TextFolder(Path(path))
    if is_text_folder(Path(path)):
        raise DataError(f"{path} holds tokens already, by its own tokenizer: leave out --tokenizer")
    return cached(_topics_file() if path == BUILT_IN else path, Path(tokenizer), progress)


def _split(folder: TextFolder) -> int:
    """Where validation begins: with a document, unless that would be far away."""
    split = folder.tokens - int(folder.tokens * VALIDATION_SHARE)
    start, _ = folder.document(
        int(folder.documents_of(np.array([min(split, folder.tokens - 1)]))[0])
    )
    return start if start > folder.tokens // 2 else split


def _topics() -> list[str]:
    """The topics of Python's documentation."""
    try:
        from pydoc_data import topics
    except ImportError as error:
        raise DataError(
            f"this Python came without the text {BUILT_IN} (pydoc_data); name a file with --data"
        ) from error
    return [topics.topics[name] for name in sorted(topics.topics)]


def _python_documentation() -> Array:
    return np.frombuffer("\n".join(_topics()).encode(), np.uint8)


def _topics_file() -> str:
    """The topics as documents in a file of the cache."""
    lines = "".join(json.dumps({"text": topic}) + "\n" for topic in _topics())
    name = hashlib.sha256(lines.encode()).hexdigest()[:16]
    return write_once(cache_folder() / f"{BUILT_IN}-{name}.jsonl", lines)


def _read(path: Path) -> Array:
    if path.is_dir():
        raise DataError(
            f"there is no data file {path}: it is a folder; make tokens of it with `ringlet data "
            "build`, or give --tokenizer FILE"
        )
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


class Sampler:
    """Which contexts of a corpus are trained on in which step.

    An array is drawn from at random. Of folders every context comes once in each epoch, in an order
    that depends on the seed. All depends on (seed, step) only, whichever rank takes which part.
    """

    def __init__(self, corpus: Corpus, block_size: int, batch_size: int, seed: int) -> None:
        self._corpus, self._block = corpus, block_size
        self._batch, self._seed = batch_size, seed
        self._order: Order | None = None
        if isinstance(corpus.train, Spans):
            lengths = np.diff(corpus.train.bases).tolist()
            self._order = Order(lengths, corpus.weights, block_size, seed)

    def offsets(self, step: int, first: int, count: int) -> Array:
        """Where samples `first` to `first + count` of a step's batch begin in the corpus."""
        if self._order is not None and isinstance(self._corpus.train, Spans):
            numbers = step * self._batch + first + np.arange(count)
            texts, offsets = self._order.find(numbers)
            return self._corpus.train.bases[texts] + offsets
        random = generator(self._seed, "batch", step)
        offsets = random.integers(0, len(self._corpus.train) - self._block, self._batch)
        return offsets[first : first + count]

    def epoch(self, steps: int) -> float:
        """How often the training text has been seen after so many steps; of several the one that
        was seen most."""
        samples = steps * self._batch
        if self._order is not None:
            return max(self._order.epochs(samples))
        return samples * self._block / len(self._corpus.train)


def training_batch(
    corpus: Corpus, block_size: int, batch_size: int, seed: int, step: int, first: int, count: int
) -> tuple[Array, Array]:
    """Samples `first` to `first + count` of a step's batch: ids and targets, (count, T) int64."""
    sampler = Sampler(corpus, block_size, batch_size, seed)
    return windows(corpus.train, sampler.offsets(step, first, count), block_size)


def windows(tokens: Array | Spans, offsets: Array, block_size: int) -> tuple[Array, Array]:
    """Contexts at the offsets and the same shifted by one: (len(offsets), T) int64 each."""
    if isinstance(tokens, Spans):
        rows = tokens.rows(offsets, block_size + 1)
    else:
        rows = np.asarray(tokens[offsets[:, None] + np.arange(block_size + 1)], np.int64)
    return rows[:, :-1], rows[:, 1:]


def validation_offsets(corpus: Corpus, block_size: int, most: int) -> Array:
    """Where validation contexts start: side by side, or `most` of them, evenly spread, and of
    several texts by their weights."""
    tokens = corpus.validation
    bases = tokens.bases if isinstance(tokens, Spans) else np.array([0, len(tokens)])
    weights = corpus.weights or (1.0,)
    offsets = []
    for number, share in enumerate(shares(weights, max(most, len(weights)))):
        available = (int(bases[number + 1] - bases[number]) - 1) // block_size
        count = min(available, share)
        chosen = np.arange(count) * available // count
        offsets.append(bases[number] + chosen * block_size)
    return np.concatenate(offsets)


def packing(corpus: Corpus, offsets: Array, block_size: int, validation: bool) -> dict[str, Array]:
    """The options of a model with which no token of these contexts attends to another document."""
    tokens = corpus.validation if validation else corpus.train
    if not isinstance(tokens, Spans):
        raise DataError(
            f"pack would do nothing: {corpus.name} is one text; folders of `ringlet data build` "
            "have documents"
        )
    return {"documents": tokens.documents(offsets, block_size)}


def first_token(corpus: Corpus) -> int:
    """What a sample begins after: the end of another text, a newline, or if neither is known the
    first token of validation."""
    if corpus.as_bytes:
        return ord("\n")
    if corpus.tokenizer is not None and corpus.tokenizer.end_of_text is not None:
        return corpus.tokenizer.end_of_text
    return int(windows(corpus.validation, np.array([0]), 1)[0][0, 0])
