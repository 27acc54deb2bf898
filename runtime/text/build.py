"""Building a folder of tokens: reading, encoding in several threads, writing, and going on after an
interruption to the same bytes."""

import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.files import lock, read_object, replacing, sync_folder
from ringlet.runtime.checkpoint.manifest import digest
from ringlet.runtime.text.encoder import Encoder
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import (
    BUILD,
    DOCUMENT_BYTES,
    DOCUMENTS,
    FORMAT,
    MANIFEST,
    TOKENIZER,
    TextFolder,
    digests,
    read_manifest,
    shard_names,
)
from ringlet.runtime.text.output import Output, write_object, writing
from ringlet.runtime.text.pieces import LONG, Piece, pieces
from ringlet.runtime.text.sources import STANDARD_INPUT, Form, Source, Tally, read
from ringlet.runtime.text.training import END, train_tokenizer

Progress: TypeAlias = Callable[[str, int, int, int], None]
"""Called with what is done, the bytes that were read, of how many, and the tokens so far."""

PROGRESS = "progress.json"

SHARD_TOKENS = 1 << 27
EVERY = 1 << 25
"""Bytes of text after which what was written is recorded, and need not be made again."""

MOST_UNKNOWN = 0.5
"""The share of tokens that a tokenizer may not know, at the beginning of a text."""

IN_FLIGHT = 2
"""Batches that are encoded at once, each by all processors."""


@dataclass(frozen=True)
class Request:
    """What is built: which text, and how it becomes tokens: by the file `tokenizer`, or by a new
    one of about `train` tokens. `end_of_text` may name its token."""

    sources: list[Source]
    form: Form
    tokenizer: Path | None = None
    train: int = 0
    end_of_text: str = ""
    shard_tokens: int = SHARD_TOKENS
    every: int = EVERY

    def plan(self) -> dict[str, Any]:
        """What must be the same when a build goes on, as JSON has it."""
        own = {"end_of_text": self.end_of_text, "learned": self.train}
        return {
            "tokenizer": self.tokenizer and _checksum(self.tokenizer),
            "options": {**asdict(self.form), **own, "shard_tokens": self.shard_tokens},
            "sources": [list(each) for each in self.sources],
        }

    @property
    def bytes(self) -> int:
        """How much there is to read; of standard input nothing is known."""
        return sum(source.bytes for source in self.sources)


class Place(NamedTuple):
    """How far a build has come: so many pieces of a source, with their checksum; in all so many
    bytes of text; and what was replaced and empty before that source."""

    source: int = 0
    pieces: int = 0
    checksum: int = 0
    bytes: int = 0
    replaced: int = 0
    empty: int = 0


class Batch(NamedTuple):
    """Pieces that are encoded together, the bytes of text up to the end of each, and the place
    after them."""

    pieces: list[Piece]
    bytes: list[int]
    place: Place


def build(
    folder: Path,
    request: Request,
    progress: Progress = lambda *facts: None,
    *,
    wait: bool = False,
) -> TextFolder:
    """Build a folder, or go on with one; raises TextError.

    The files depend on the request alone, not on interruptions and the number of processors. Two
    builds do not write to one folder: the second one is refused, or with `wait` waits.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, wait):
        plan = request.plan()
        if (folder / MANIFEST).exists():
            _check_complete(folder, plan)
        else:
            _begin(folder, plan)
            encoder = _encoder(folder, request, progress)
            _finish(folder, plan, encoder, _run(folder, request, encoder, progress))
        for name in (BUILD, PROGRESS):
            for leftover in (folder / name, folder / f"{name}.tmp"):
                leftover.unlink(missing_ok=True)
    return TextFolder(folder)


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[None]:
    """The folder belongs to this build, until it ends in whatever way."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(descriptor, wait)
        except BlockingIOError as error:
            raise TextError(f"{folder} is being built already: wait for that") from error
        yield
    finally:
        os.close(descriptor)


def _check_complete(folder: Path, plan: dict[str, Any]) -> None:
    """Refuse to take other tokens for these."""
    found = read_manifest(folder)
    same = found["options"] == plan["options"] and found["sources"] == _names(plan)
    if plan["tokenizer"]:
        same = same and found["files"][TOKENIZER]["sha256"] == plan["tokenizer"]
    if not same or any(path == STANDARD_INPUT for path, *_ in plan["sources"]):
        raise TextError(f"{folder} holds other tokens already: choose another --out")


def _checksum(tokenizer: Path) -> str:
    try:
        found: str = digest(tokenizer)["sha256"]
    except OSError as error:
        raise TextError(f"cannot read {tokenizer}: {error.strerror}") from error
    return found


def _names(plan: dict[str, Any]) -> list[Any]:
    """The sources as a manifest has them: a copy is the same, however old it is."""
    return [source[:-1] for source in plan["sources"]]


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    """Record what is built, unless that was begun before; refuse to go on with another build."""
    path = folder / BUILD
    if not path.exists():
        others = sorted(each.name for each in folder.iterdir() if each.name != f"{BUILD}.tmp")
        if others:
            raise TextError(f"{folder} holds other files ({others[0]}): choose another --out")
    elif (before := read_object(path, TextError)) != plan and (folder / PROGRESS).exists():
        what = next(name for name in plan if before.get(name) != plan[name])
        changed = [source[0] for source in plan["sources"] if source not in before["sources"]]
        if what == "sources" and changed:
            what = f"sources ({changed[0]})"
        raise TextError(
            f"{folder} holds the beginning of a build of which the {what} were other ones: remove "
            "it, or choose another --out"
        )
    write_object(path, plan)


def _encoder(folder: Path, request: Request, progress: Progress) -> Encoder:
    """The tokenizer, which is put into the folder: a copy, or a new one."""
    kept = folder / TOKENIZER
    if request.tokenizer is not None:
        made = Encoder(request.tokenizer, request.end_of_text)
        with writing(kept), replacing(kept) as part:
            shutil.copyfile(request.tokenizer, part)
        return made
    if not (folder / PROGRESS).exists():
        tally = Tally()

        def texts() -> Iterator[str]:
            for piece in _all_pieces(request, tally, lambda text, place: True):
                progress("to learn a tokenizer", tally.read, request.bytes, 0)
                yield piece.text

        train_tokenizer(texts(), request.train, kept)
        write_object(folder / PROGRESS, {"place": Place()._asdict(), "tokens": 0, "documents": 0})
    return Encoder(kept, request.end_of_text or END)


def _all_pieces(
    request: Request, tally: Tally, may_cut: Callable[[str, int], bool]
) -> Iterator[Piece]:
    for source in request.sources:
        yield from pieces(read(source, request.form, tally), may_cut, source.path)


def _batches(request: Request, encoder: Encoder, start: Place, tally: Tally) -> Iterator[Batch]:
    """What is to be encoded from that place on."""
    size, room = 0, LONG * max(4, 2 * (os.cpu_count() or 1))
    batch: list[Piece] = []
    ends: list[int] = []
    tally.replaced, tally.empty = start.replaced, start.empty
    place = Place(bytes=start.bytes)
    tally.read = sum(source.bytes for source in request.sources[: start.source])
    for number in range(start.source, len(request.sources)):
        source = request.sources[number]
        place = Place(number, 0, 0, place.bytes, tally.replaced, tally.empty)
        for piece in pieces(read(source, request.form, tally), encoder.may_cut, source.path):
            data = piece.text.encode()
            place = place._replace(
                pieces=place.pieces + 1, checksum=zlib.crc32(data, place.checksum)
            )
            tally.empty += piece.first and piece.last and not data
            if number == start.source and place.pieces <= start.pieces:
                if place.pieces == start.pieces and place.checksum != start.checksum:
                    raise _changed(source)
                continue
            place = place._replace(bytes=place.bytes + len(data))
            if data or not piece.first:
                batch.append(piece)
                ends.append(place.bytes)
                size += len(piece.text)
            if size >= room:
                yield Batch(batch, ends, place)
                batch, ends, size = [], [], 0
        if number == start.source and place.pieces < start.pieces:
            raise _changed(source)
    yield Batch(batch, ends, place)


def _changed(source: Source) -> TextError:
    name = "standard input" if source.path == STANDARD_INPUT else source.path
    return TextError(
        f"{name} has changed since the build began: remove its folder, or choose another --out"
    )


def _run(folder: Path, request: Request, encoder: Encoder, progress: Progress) -> dict[str, int]:
    """Encode all text from where the last build was stopped; the manifest's counts."""
    start, tokens, documents, unknown = Place(), 0, 0, 0
    if (folder / PROGRESS).exists():
        found = read_object(folder / PROGRESS, TextError)
        try:
            start = Place(**found["place"])
            tokens, documents = found["tokens"], found["documents"]
        except (KeyError, TypeError) as error:
            raise TextError(f"{folder / PROGRESS} is damaged: remove {folder}") from error
        unknown = found.get("unknown", 0)
    tally, recorded = Tally(), start.bytes
    output = Output(folder, encoder.dtype, request.shard_tokens, tokens, documents)
    waiting: deque[tuple[Batch, Future[tuple[Array, list[int]]]]] = deque()

    def write_one() -> None:
        nonlocal recorded, unknown
        batch, future = waiting.popleft()
        ids, lengths = future.result()
        unknown += (
            int(np.count_nonzero(ids == encoder.unknown)) if encoder.unknown is not None else 0
        )
        if not output.tokens:
            _check_fit(encoder, unknown, len(ids))
        ends, token = [], output.tokens
        for piece, length, nbytes in zip(batch.pieces, lengths, batch.bytes, strict=True):
            token += length
            if piece.last:
                ends.append((token, nbytes))
        output.add(ids, ends)
        progress("read", tally.read, request.bytes, output.tokens)
        if batch.place.bytes >= recorded + request.every:
            recorded = batch.place.bytes
            output.sync()
            counts = {"tokens": output.tokens, "documents": output.documents, "unknown": unknown}
            write_object(folder / PROGRESS, {"place": batch.place._asdict(), **counts})

    with closing(output), ThreadPoolExecutor(IN_FLIGHT) as threads:
        for batch in _batches(request, encoder, start, tally):
            if batch.pieces:
                waiting.append((batch, threads.submit(encoder.encode, batch.pieces)))
            if len(waiting) > IN_FLIGHT:
                write_one()
        while waiting:
            write_one()
        output.sync()
    return {
        "tokens": output.tokens,
        "documents": output.documents,
        "bytes": batch.place.bytes,
        "replaced": tally.replaced,
        "empty": tally.empty,
        "unknown": unknown,
    }


def _check_fit(encoder: Encoder, unknown: int, tokens: int) -> None:
    """Refuse a tokenizer that does not know most of the text's beginning."""
    if unknown > tokens * MOST_UNKNOWN:
        raise TextError(
            f"{encoder.file} does not fit the text: {unknown:,} of the first {tokens:,} tokens are "
            "those of what it does not know"
        )


def _finish(folder: Path, plan: dict[str, Any], encoder: Encoder, counts: dict[str, int]) -> None:
    """Write the manifest, which makes the folder complete."""
    if not counts["documents"]:
        found = ", ".join(source[0] for source in plan["sources"][:3])
        raise TextError(f"there is no text in {found}: all documents are empty")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "dtype": encoder.dtype,
        "shard_tokens": plan["options"]["shard_tokens"],
        **counts,
        "vocab_size": encoder.vocab_size,
        "end_of_text": {"id": encoder.end_of_text, "token": encoder.end},
        "options": plan["options"],
        "sources": _names(plan),
    }
    names = [TOKENIZER, DOCUMENTS, DOCUMENT_BYTES, *shard_names(manifest)]
    manifest["files"] = dict(zip(names, digests(folder, names), strict=True))
    write_object(folder / MANIFEST, manifest)
    sync_folder(folder)
