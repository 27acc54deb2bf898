"""Files that are compressed with Zstandard, read with the library zstandard."""

import io
from typing import Any, BinaryIO

from ringlet.runtime.text.errors import TextError

READ = 1 << 13
"""Compressed bytes that are taken at once: they may become many more."""


def open_zstd(file: BinaryIO, name: str) -> BinaryIO:
    """What is in the file; reading raises EOFError where it is cut off, OSError if it is damaged.
    Raises TextError if the library is not there."""
    try:
        import zstandard
    except ImportError as error:
        raise TextError(f"{name} needs zstandard: pip install 'ringlet[zstd]'") from error
    return io.BufferedReader(_Frames(file, zstandard))


class _Frames(io.RawIOBase):
    """The content of one frame after another."""

    def __init__(self, file: BinaryIO, library: Any) -> None:
        self._file, self._library = file, library
        self._frame: Any = None
        self._waiting, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._waiting or self._file.read(READ)
            if not data:
                if self._frame is not None:
                    raise EOFError("it ends within compressed text")
                return 0
            self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._library.ZstdError as error:
                raise OSError(str(error)) from error
            self._waiting = self._frame.unused_data
            self._frame = None if self._frame.eof else self._frame
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
