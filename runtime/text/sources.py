"""Where text comes from: files, folders, patterns and standard input, and what is a document there.

A source is read as a stream of strings, in which None ends a document.
"""

import codecs
import csv
import glob
import gzip
import io
import json
import os
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from ringlet.nn.files import open_file, short
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import is_text_folder
from ringlet.runtime.text.zstd import open_zstd

Stream: TypeAlias = Iterator[str | None]

STANDARD_INPUT = "-"
KINDS = ("text", "jsonl", "csv")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
PACKED = (".gz", ".zst")

CHUNK = 1 << 18
"""Bytes of a text file that are read at once."""

LONGEST = 1 << 26
"""Bytes of a line of JSON, or characters of a field of CSV, at most."""

MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # the first begins as UTF-16's
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""How text in these encodings begins."""

NAMES = 5
"""So many names are shown of many."""


@dataclass(frozen=True)
class Form:
    """How documents are found: `kind` is that of files whose suffix does not say it, `column` has
    the text in JSON lines and CSV, and `separator` stands between documents in text files ("": a
    file is one document)."""

    kind: str = "text"
    column: str = "text"
    separator: str = ""


class Source(NamedTuple):
    """A file, or "-" for standard input, as it was found."""

    path: str
    kind: str
    bytes: int = 0
    modified: int = 0


@dataclass
class Tally:
    """What was noticed on the way: characters that were replaced, since they were not UTF-8, and
    empty documents; and the bytes that were read, as they lie on the disk."""

    replaced: int = 0
    empty: int = 0
    read: int = 0


def find_sources(words: Iterable[str], form: Form) -> tuple[list[Source], list[str]]:
    """The sources that the words name, in their order, those in a folder or pattern sorted; and the
    files below folders that hold no text, which are left out. Raises TextError."""
    found: dict[str, Source] = {}  # by the file, which counts once however it is named
    left_out: list[str] = []
    for word in words:
        if word == STANDARD_INPUT:
            found[word] = Source(word, form.kind)
            continue
        path = Path(word)
        names = [word] if os.path.lexists(word) else sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - an absolute one, too
        if not names:
            raise TextError(f"there is no file or folder {word}")
        for name in names:
            if not Path(name).is_dir():
                _keep(found, form)(name)
                continue
            if is_text_folder(Path(name)):
                raise TextError(f"{name} holds tokens already, not text")
            for inner in _below(Path(name)):
                (left_out.append if _is_binary(inner) else _keep(found, form))(inner)
        if path.is_dir() and not any(
            Path(each.path).is_relative_to(path) for each in found.values()
        ):
            raise TextError(f"there is no text in the folder {word}")
    return list(found.values()), left_out


def _keep(found: dict[str, Source], form: Form) -> Any:
    def keep(name: str) -> None:
        found.setdefault(os.path.abspath(name), _source(name, form))  # noqa: PTH100 - links stay

    return keep


def _below(folder: Path) -> Iterator[str]:
    """The regular files in a folder and those below it, sorted, without hidden ones and
    without what was made from text before."""
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(
            name
            for name in folders
            if not (name.startswith(".") or is_text_folder(Path(place, name)))
        )
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield str(path)


def _unreadable(error: OSError) -> None:
    raise TextError(f"cannot read {error.filename}: {error.strerror}") from error


def _is_binary(name: str) -> bool:
    """Whether a file that nobody has named is no text: there is a NUL among its first bytes."""
    with _refusals(name), _opened(name, Tally()) as file:
        data: bytes = file.read(1 << 13)
    return b"\0" in data and _encoding(data) == "utf-8-sig"


def _encoding(data: bytes) -> str:
    """That of a text which begins so."""
    return next((name for name, marks in MARKS.items() if data.startswith(marks)), "utf-8-sig")


def kind_by_name(name: str) -> str:
    """The kind that a file's name says; "" if it says none."""
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return SUFFIXES.get(Path(name).suffix.lower(), "")


def _source(name: str, form: Form) -> Source:
    try:
        facts = Path(name).stat()
    except OSError as error:
        raise TextError(f"cannot read {name}: {error.strerror}") from error
    kind = kind_by_name(name) or form.kind
    if stat.S_ISREG(facts.st_mode):
        return Source(name, kind, facts.st_size, facts.st_mtime_ns)
    return Source(name, kind)


def read(source: Source, form: Form, tally: Tally) -> Stream:
    """The documents of a source; raises TextError, which names it."""
    readers = {"text": _text, "jsonl": _json_lines, "csv": _csv}
    with _refusals(source.path), _opened(source.path, tally) as file:
        yield from readers[source.kind](file, source.path, form, tally)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TextError(f"{name} is damaged, or not compressed: {error}") from error
    except csv.Error as error:
        raise TextError(f"{name} is not CSV: {error}") from error
    except OSError as error:
        raise TextError(f"cannot read {name}: {error.strerror or error}") from error


class _Counted(io.RawIOBase):
    """A file whose bytes are counted as they are read."""

    def __init__(self, file: BinaryIO, tally: Tally) -> None:
        self._file, self._tally = file, tally

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._tally.read += len(data)
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _opened(name: str, tally: Tally) -> Iterator[Any]:
    """What is in a file, decompressed."""
    own = name != STANDARD_INPUT
    raw = open_file(Path(name)) if own else sys.stdin.buffer
    try:
        counted = io.BufferedReader(_Counted(raw, tally), CHUNK)
        if name.endswith(".gz"):
            yield gzip.open(counted)  # noqa: SIM115 - it ends with the file
        elif name.endswith(".zst"):
            yield open_zstd(counted, name)
        else:
            yield counted
    finally:
        if own:
            raw.close()


_replaced = 0


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replaces what is no text, and counts it."""
    global _replaced
    _replaced += 1
    return "\ufffd", error.end  # type: ignore[attr-defined]


codecs.register_error("ringlet-replaced", _replace)


@contextmanager
def _counting(tally: Tally) -> Iterator[None]:
    """Whatever is replaced inside belongs to this tally; one thread reads at a time."""
    before = _replaced
    yield
    tally.replaced += _replaced - before


def _decoded(file: BinaryIO, tally: Tally) -> Iterator[str]:
    """UTF-8, or UTF-16 or UTF-32 with a mark of byte order; without the mark."""
    data = file.read(CHUNK)
    decoder = codecs.getincrementaldecoder(_encoding(data))("ringlet-replaced")
    while data:
        with _counting(tally):
            text = decoder.decode(data)
        yield text
        data = file.read(CHUNK)
    with _counting(tally):
        text = decoder.decode(b"", True)
    yield text


def _text(file: BinaryIO, name: str, form: Form, tally: Tally) -> Stream:
    separator, rest = form.separator, ""
    for text in _decoded(file, tally):
        if not separator:
            yield text
            continue
        *whole, rest = (rest + text).split(separator)
        for part in whole:
            yield part
            yield None
        sure = max(0, len(rest) - len(separator) + 1)  # the rest may begin a separator
        yield rest[:sure]
        rest = rest[sure:]
    yield rest
    yield None


def _json_lines(file: BinaryIO, name: str, form: Form, tally: Tally) -> Stream:
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise TextError(f"{name}: line {number} is longer than {LONGEST >> 20} MiB")
        with _counting(tally):
            words = line.decode("utf-8-sig" if number == 1 else "utf-8", "ringlet-replaced")
        if words.isspace():
            continue
        try:
            values = json.loads(words)
        except (ValueError, RecursionError) as error:
            raise TextError(f"{name}: line {number} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise TextError(f"{name}: line {number} is {short(values)}, not an object with columns")
        text = _column(values, form.column, f"{name}: line {number}")
        if not isinstance(text, str):
            raise TextError(f"{name}: line {number} has {short(text)} in {form.column!r}, not text")
        yield _without_surrogates(text, tally)
        yield None


def _csv(file: BinaryIO, name: str, form: Form, tally: Tally) -> Stream:
    lines = io.TextIOWrapper(file, "utf-8-sig", errors="ringlet-replaced", newline="")
    csv.field_size_limit(LONGEST)
    bare = name.removesuffix(".gz").removesuffix(".zst").lower()
    rows = csv.reader(lines, strict=True, delimiter="\t" if bare.endswith(".tsv") else ",")
    with _counting(tally):
        header = next(rows, [])
    _column(dict.fromkeys(header), form.column, f"{name}: its first row")
    place = header.index(form.column)
    while True:
        with _counting(tally):
            row = next(rows, None)
        if row is None:
            return
        if row and len(row) <= place:
            raise TextError(
                f"{name}: the row that ends in line {rows.line_num} has no column {form.column!r}"
            )
        if row:
            yield row[place]
            yield None


def _column(values: dict[str, Any], column: str, where: str) -> Any:
    if column not in values:
        names = ", ".join(map(short, list(values)[:NAMES])) or "none"
        more = ", ..." if len(values) > NAMES else ""
        raise TextError(
            f"{where} has no column {column!r}; it has {names}{more}: name one with --column"
        )
    return values[column]


def _without_surrogates(text: str, tally: Tally) -> str:
    """JSON may escape halves of characters, which are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        halves = [character for character in text if "\ud800" <= character <= "\udfff"]
        tally.replaced += len(halves)
        text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text
