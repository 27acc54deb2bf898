"""The files of tokens as they grow: what is recorded as written is there after any interruption."""

import contextlib
import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.files import replacing, sync_folder, synced
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import DOCUMENT_BYTES, DOCUMENTS, shard_name


class Output:
    """The shards and the index in a folder, from these numbers of `tokens` and `documents` on; what
    was written after them is cut off. Raises TextError, naming the file."""

    def __init__(
        self, folder: Path, dtype: str, shard_tokens: int, tokens: int, documents: int
    ) -> None:
        self.folder, self._dtype, self._size = folder, np.dtype(dtype), shard_tokens
        self.tokens, self.documents = tokens, documents
        with writing(folder):
            for number in count(-(-tokens // shard_tokens)):
                if not (folder / shard_name(number)).exists():
                    break
                (folder / shard_name(number)).unlink()
        self._index = [self._open(name, 8 * documents) for name in (DOCUMENTS, DOCUMENT_BYTES)]
        self._shard = self._open_shard()

    def add(self, ids: Array, ends: list[tuple[int, int]]) -> None:
        """Append ids, and the ends of the documents that end among them: (token, bytes)."""
        start = 0
        while start < len(ids):
            room = self._size - self.tokens % self._size
            part = np.ascontiguousarray(ids[start : start + room], self._dtype)
            self._write(self._shard, part)
            start, self.tokens = start + len(part), self.tokens + len(part)
            if self.tokens % self._size == 0:
                self._sync(self._shard)
                self._shard.close()
                self._shard = self._open_shard()
        self.documents += len(ends)
        for file, numbers in zip(self._index, np.array(ends, "<i8").reshape(-1, 2).T, strict=True):
            self._write(file, np.ascontiguousarray(numbers))

    def sync(self) -> None:
        """Return when all that was added is on the disk."""
        for file in (*self._index, self._shard):
            self._sync(file)

    def close(self) -> None:
        """Close the files; a last shard that is empty goes."""
        for file in (*self._index, self._shard):
            with contextlib.suppress(OSError):
                file.close()
        if self.tokens % self._size == 0:
            (self.folder / shard_name(self.tokens // self._size)).unlink(missing_ok=True)

    def _open_shard(self) -> BinaryIO:
        used = self.tokens % self._size * self._dtype.itemsize
        return self._open(shard_name(self.tokens // self._size), used)

    def _open(self, name: str, size: int) -> BinaryIO:
        """A file of this size, to be continued."""
        path = self.folder / name
        with writing(path):
            file = path.open("ab")
            if file.tell() < size:
                file.close()
                raise TextError(f"{path} was changed: it is shorter than when the build stopped")
            file.truncate(size)
            return file

    def _write(self, file: BinaryIO, data: Array) -> None:
        with writing(Path(file.name)):
            file.write(data.data)

    def _sync(self, file: BinaryIO) -> None:
        with writing(Path(file.name)):
            file.flush()
            os.fsync(file.fileno())


def write_object(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file that is there as a whole or not at all; raises TextError."""
    with writing(path):
        with replacing(path) as part, synced(part) as file:
            file.write(json.dumps(values, indent=1).encode())
        sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk as TextError."""
    try:
        yield
    except OSError as error:
        raise TextError(
            f"cannot write {path}: {error.strerror}; what was built so far stays, and the same "
            "command goes on from there"
        ) from error
