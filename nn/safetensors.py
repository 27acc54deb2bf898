"""The safetensors format: named arrays in a file, mapped into memory and never executed.

Eight bytes hold the length of a JSON header, which gives each array's dtype, shape and offsets in
the rest of the file (https://github.com/huggingface/safetensors#format). A file comes from
outside, so every number in its header is checked before it is used.
"""

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ringlet.nn.backend import Array, to_host
from ringlet.nn.files import SHOWN, open_file, parse_object, replacing, short

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
    "BOOL": "|b1",
}  # fmt: skip
NAMES = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}
LARGEST_HEADER = 100_000_000
"""Bytes; the same limit as the library's."""

MOST_DIMENSIONS = 32
"""As many as an array can have with any version of NumPy."""


class SafetensorsError(ValueError):
    """A file does not follow the format; the message names the file and the reason."""


class ArrayEntry(NamedTuple):
    """A header's entry for an array: bytes `start` to `stop` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Stored(NamedTuple):
    """An array as a file has it, a read-only view of the mapped file: bfloat16 is uint16 there."""

    array: Array
    is_bfloat16: bool

    def widened(self) -> Array:
        """The array itself, or float32 of bfloat16."""
        if not self.is_bfloat16:
            return self.array
        wide = self.array.astype("<u4")
        wide <<= np.uint32(16)
        return wide.view("<f4")


class LazyArrays(Mapping[str, Array]):
    """Named arrays that are read when they are used; `entries` says where each comes from."""

    entries: Mapping[str, Any]

    def stored(self, name: str) -> Stored:
        """An array as its file has it."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of the memory that files take which were read; used again, they are read again."""
        raise NotImplementedError

    def __getitem__(self, name: str) -> Array:
        return self.stored(name).widened()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class SafetensorsFile(LazyArrays):
    """The arrays of a file by name, each read when it is used. bfloat16 becomes float32.

    Arrays are read-only views of the mapped file. Raises FileNotFoundError, SafetensorsError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_file(path) as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SafetensorsError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:  # an empty file cannot be mapped
            raise SafetensorsError(f"{path} is empty") from error
        self._bytes = np.frombuffer(self._map, np.uint8)
        self.entries, self.metadata = _read_header(path, self._bytes)

    def stored(self, name: str) -> Stored:
        entry = self.entries[name]
        raw = self._bytes[entry.start : entry.stop].view(DTYPES[entry.dtype])
        return Stored(raw.reshape(entry.shape), entry.dtype == "BF16")

    def release(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)


def _read_header(path: Path, data: Array) -> tuple[dict[str, ArrayEntry], dict[str, str]]:
    if len(data) < 8:
        raise SafetensorsError(f"{path} has {len(data)} bytes; the format begins with 8")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(LARGEST_HEADER, len(data) - 8):
        raise SafetensorsError(f"{path}: a header of {length:,} bytes in a file of {len(data):,}")
    try:
        header = parse_object(data[8 : 8 + length].tobytes().decode())
    except ValueError as error:
        raise SafetensorsError(f"{path}: the header is not a JSON object: {error}") from error
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise SafetensorsError(f"{path}: __metadata__ is {short(metadata)}, not texts by name")
    entries = {
        name: _entry(f"{path}: {name[:SHOWN]}", fields, 8 + length)
        for name, fields in header.items()
    }
    _check_places(path, entries, 8 + length, len(data))
    return entries, metadata


def _entry(what: str, fields: Any, base: int) -> ArrayEntry:
    """One array's entry, its numbers checked against each other."""
    try:
        dtype, shape, (start, stop) = fields["dtype"], fields["shape"], fields["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise SafetensorsError(f"{what} needs a dtype, a shape and two offsets") from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise SafetensorsError(f"{what} has dtype {short(dtype)}; known are {', '.join(DTYPES)}")
    if (
        not isinstance(shape, list)
        or len(shape) > MOST_DIMENSIONS
        or not all(_is_size(length) for length in (*shape, start, stop))
    ):
        raise SafetensorsError(f"{what}: shape {short(shape)}, offsets {short([start, stop])}")
    size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if stop - start != size:
        raise SafetensorsError(
            f"{what}: {dtype} of shape {tuple(shape)} takes {size:,} bytes; its offsets span "
            f"{stop - start:,}"
        )
    if not _is_size(math.prod(filter(None, shape)) * np.dtype(DTYPES[dtype]).itemsize):
        raise SafetensorsError(f"{what}: no array of shape {tuple(shape)} can be made")
    return ArrayEntry(dtype, tuple(shape), base + start, base + stop)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _check_places(path: Path, entries: Mapping[str, ArrayEntry], base: int, size: int) -> None:
    """The arrays must cover the file, one after the other."""
    end, before = base, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.start != end:
            how = "overlaps" if entry.start < end else "leaves a gap after"
            raise SafetensorsError(f"{path}: {name[:SHOWN]} {how} {before[:SHOWN]}")
        end, before = entry.stop, name
    if end != size:
        raise SafetensorsError(f"{path} has {size:,} bytes; its header describes {end:,}")


def write_safetensors(
    path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to a file that appears only when it is complete; see dump_safetensors."""
    with replacing(path) as part, part.open("wb") as file:
        dump_safetensors(file, arrays, metadata)


def dump_safetensors(
    file: BinaryIO, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to an open file. Raises TypeError for a dtype that the format lacks."""
    ready = {name: to_host(array) for name, array in arrays.items()}
    wrong = [f"{name} ({a.dtype})" for name, a in ready.items() if a.dtype not in NAMES]
    if wrong:
        raise TypeError(f"safetensors has no dtype for {', '.join(wrong)}")
    order = sorted(ready, key=lambda name: (-ready[name].dtype.itemsize, name))  # keeps alignment
    file.write(_header([(name, ready[name]) for name in order], metadata))
    for name in order:
        file.write(np.ascontiguousarray(ready[name]).data)


def _header(named: list[tuple[str, Array]], metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, array in named:
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, start + array.nbytes],
        }
        start += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
