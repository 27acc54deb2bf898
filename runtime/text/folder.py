"""A folder of text as tokens: what is in it, and how it is read.

    manifest.json        counts, the end-of-text token, what it was made from, and every other
                         file's size and checksum; written last
    tokenizer.json       the tokenizer that made the ids
    shard-00000.bin      ids, uint16 or uint32; every shard but the last has `shard_tokens`
    documents.bin        the token after each document's last, which is the end of text; int64
    document-bytes.bin   the bytes of text (UTF-8) up to there; int64

All numbers are little-endian. A document may begin in one shard and end in another.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.files import read_object, short
from ringlet.runtime.checkpoint.manifest import digest
from ringlet.runtime.text.errors import TextError

FORMAT = 1
MANIFEST, TOKENIZER, BUILD = "manifest.json", "tokenizer.json", "building.json"
DOCUMENTS, DOCUMENT_BYTES = "documents.bin", "document-bytes.bin"

DTYPES = ("<u2", "<u4")
COUNTS = (
    "shard_tokens",
    "tokens",
    "documents",
    "bytes",
    "replaced",
    "empty",
    "unknown",
    "vocab_size",
)


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.bin"


class TextFolder:
    """The tokens that `ringlet data build` has put into a folder. Raises TextError, also for files
    of another size than the manifest says; `verify` compares their checksums.

    `manifest` has `tokens`, `documents`, `bytes` (of text), `vocab_size` and `end_of_text` (id and
    token); `tokenizer` is the path of the tokenizer.json.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.tokenizer = path, path / TOKENIZER
        self.manifest = read_manifest(path)
        self.tokens: int = self.manifest["tokens"]
        self.documents: int = self.manifest["documents"]
        self.vocab_size: int = self.manifest["vocab_size"]
        self.end_of_text: int = self.manifest["end_of_text"]["id"]
        self._size: int = self.manifest["shard_tokens"]
        for name, facts in self.manifest["files"].items():
            self._check(name, facts["bytes"])
        kind = self.manifest["dtype"]
        self._shards = [self._map(name, kind) for name in shard_names(self.manifest)]
        self._ends, self._bytes = self._map(DOCUMENTS, "<i8"), self._map(DOCUMENT_BYTES, "<i8")
        if (self._ends[-1], self._bytes[-1]) != (self.tokens, self.manifest["bytes"]):
            raise TextError(f"{path} is damaged: its documents do not end where its text ends")

    @property
    def digest(self) -> str:
        """A checksum of all that is in the folder, wherever it lies."""
        return hashlib.sha256(
            json.dumps(self.manifest["files"], sort_keys=True).encode()
        ).hexdigest()

    @property
    def tokenizer_digest(self) -> str:
        """The checksum (SHA-256) of tokenizer.json."""
        found: str = self.manifest["files"][TOKENIZER]["sha256"]
        return found

    def take(self, start: int, stop: int) -> Array:
        """The ids from one token to another."""
        size = self._size
        parts = [
            self._shards[number][max(0, start - number * size) : stop - number * size]
            for number in range(start // size, -(-stop // size))
        ]
        return np.concatenate(parts) if parts else np.empty(0, self.manifest["dtype"])

    def document(self, number: int) -> tuple[int, int]:
        """The first token of a document, and the one after its last."""
        return int(self._ends[number - 1]) if number else 0, int(self._ends[number])

    def documents_of(self, tokens: Array) -> Array:
        """The document of each token, int64. The end of a text belongs to the document that it is
        the end of."""
        return np.searchsorted(self._ends, np.asarray(tokens, np.int64), side="right")

    def bytes_until(self, token: int) -> float:
        """The bytes of text before a token; within a document in proportion."""
        if token >= self.tokens:
            return float(self.manifest["bytes"])
        number = int(self.documents_of(np.array([token]))[0])
        first, stop = self.document(number)
        before = int(self._bytes[number - 1]) if number else 0
        return before + (int(self._bytes[number]) - before) * (token - first) / max(1, stop - first)

    def verify(self) -> None:
        """Read all files, compare their checksums, and see that they fit each other; raises
        TextError."""
        expected = self.manifest["files"]
        for name, found in zip(expected, digests(self.path, expected), strict=True):
            if found != expected[name]:
                raise TextError(
                    f"{self.path / name} was changed after it was built: its checksum differs"
                )
        ends, nbytes = self._ends, self._bytes
        if min(ends[0], nbytes[0] + 1) < 1 or any(
            np.any(each[1:] < each[:-1] + least) for each, least in ((ends, 1), (nbytes, 0))
        ):
            raise TextError(f"{self.path} is damaged: its documents are not in order")
        largest = max(int(shard.max()) for shard in self._shards)
        if max(largest, self.end_of_text) >= self.vocab_size:
            raise TextError(f"{self.path} is damaged: it has ids beyond its {self.vocab_size:,}")

    def _check(self, name: str, size: int) -> None:
        path = self.path / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise TextError(f"{path} cannot be read: {error.strerror}") from error
        if found != size:
            raise TextError(
                f"{path} was changed after it was built: it has {found:,} bytes, not {size:,}"
            )

    def _map(self, name: str, kind: str) -> Array:
        path = self.path / name
        if not path.stat().st_size:
            return np.empty(0, kind)
        try:
            return np.memmap(path, kind, "r").view(np.ndarray)
        except (OSError, ValueError) as error:
            raise TextError(f"{path} cannot be read: {error}") from error


def shard_names(manifest: dict[str, Any]) -> list[str]:
    """The files of the shards that a manifest has, in order."""
    count = -(-manifest["tokens"] // manifest["shard_tokens"])
    return [shard_name(number) for number in range(count)]


def is_text_folder(path: Path) -> bool:
    """Whether the folder was made by `ringlet data build`, or its beginning was."""
    return (path / DOCUMENT_BYTES).is_file() or (path / BUILD).is_file()


def digests(folder: Path, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The sizes and checksums of files, several at once; raises TextError."""
    with ThreadPoolExecutor() as threads:
        try:
            yield from threads.map(lambda name: digest(folder / name), names)
        except OSError as error:
            raise TextError(
                f"{error.filename or folder} cannot be read: {error.strerror}"
            ) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """A folder's manifest, checked; raises TextError."""
    path = folder / MANIFEST
    if not path.exists() and (folder / BUILD).exists():
        raise TextError(f"{folder} is not complete: run its `ringlet data build` once more")
    manifest = read_object(path, TextError)
    try:
        if manifest["format"] != FORMAT:
            raise TextError(f"{folder} has format {short(manifest['format'])}, not {FORMAT}")
        files, end = manifest["files"], manifest["end_of_text"]
        numbers = [manifest[name] for name in COUNTS] + [end["id"]]
        numbers += [facts["bytes"] for facts in files.values()]
        shards = -(-manifest["tokens"] // max(1, manifest["shard_tokens"]))
        expected = {TOKENIZER, DOCUMENTS, DOCUMENT_BYTES}
        fits = (
            all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
            and manifest["dtype"] in DTYPES
            and 0 < shards == len(files) - len(expected)
            and manifest["documents"] > 0
            and expected.union(shard_names(manifest)) == set(files)
            and all(type(facts["sha256"]) is str for facts in files.values())
            and type(end["token"]) is str
            and all(type(source[0]) is str for source in manifest["sources"])
            and _sizes_fit(manifest)
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise TextError(f"{path} is damaged: {error!r}") from error
    if not fits:
        raise TextError(f"{path} is damaged: its numbers do not fit each other")
    return manifest


def _sizes_fit(manifest: dict[str, Any]) -> bool:
    files, width = manifest["files"], np.dtype(manifest["dtype"]).itemsize
    tokens = sum(files[name]["bytes"] for name in shard_names(manifest))
    indices = {files[name]["bytes"] for name in (DOCUMENTS, DOCUMENT_BYTES)}
    return tokens == width * manifest["tokens"] and indices == {8 * manifest["documents"]}
