"""Files that others wrote: only regular ones are opened, and no more is read than they announce.

A device may never end, and a pipe may never begin. What is read is text, JSON or TOML in UTF-8.
What is written here takes the place of an older file as a whole, and is on the disk afterwards if
that is asked for.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

MOST_BYTES = 256 << 20
"""Larger files of text are refused; no config, index, manifest or tokenizer comes near."""

SHOWN = 80


def open_file(path: Path) -> BufferedReader:
    """Open a file to read; raises OSError, also for what is no regular file."""
    return open(path, "rb", opener=_regular)


def _regular(path: str, flags: int) -> int:
    """Opens without waiting, as whoever opens a pipe waits for its other end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = f": {os.strerror(errno.EISDIR)}" if stat.S_ISDIR(mode) else ""
        raise OSError(errno.EINVAL, f"not a regular file{what}", path)
    return descriptor


def lock(descriptor: int, wait: bool = False) -> None:
    """Hold an open file or folder alone until it is closed, however this process ends. Raises
    BlockingIOError if another one holds it; where the file system knows no locks, nobody does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        pass


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what takes the name `path` at the end of the block, so that whoever reads it
    finds all of the old file or all of the new one. If the block raises, the old one stays."""
    part = path.with_name(f"{path.name}.tmp")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, whose bytes are on the disk afterwards."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str:
    """A whole file; raises OSError, and ValueError if it is not UTF-8 or too long."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise ValueError(f"{size:,} bytes are too many")
        return file.read(size).decode("utf-8-sig")


def read_object(path: Path, error: type[Exception]) -> dict[str, Any]:
    """The object in a JSON file; raises `error`, naming the file and the reason."""
    try:
        return parse_object(read_text(path))
    except FileNotFoundError as reason:
        raise error(f"{path} does not exist") from reason
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from reason
    except ValueError as reason:
        raise error(f"{path} is not a JSON object: {reason}") from reason


def read_toml(path: Path, error: type[Exception]) -> dict[str, Any]:
    """The tables of a TOML file; raises `error`, naming the file and the reason."""
    try:
        return tomllib.loads(read_text(path))
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror}") from reason
    except (ValueError, RecursionError) as reason:
        raise error(f"{path} is not TOML: {reason}") from reason


def parse_object(text: str) -> dict[str, Any]:
    """The object of a JSON text; raises ValueError, also where a name appears twice."""
    try:
        values = json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"it is {short(values)}")
    return values


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice")
    return found


def short(value: Any) -> str:
    """A value from outside as a message shows it: cut, if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of many digits, or much nesting
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
