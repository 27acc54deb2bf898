"""`ringlet data show`: what is in a folder of tokens."""

from pathlib import Path
from typing import Annotated

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.commands.options import Argument, with_options
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.errors import user_errors
from ringlet.launcher.supervisor.output import Screen
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import TextFolder
from ringlet.runtime.training.tokenizers import TokenizerError, load_tokenizer

SHOWN = 5
"""So many documents and sources are shown."""

BEGINNING = 64
"""Tokens of a document that are decoded."""


@with_options()
def show(
    folder: Annotated[Path, Argument("FOLDER", "What `data build` has made.")],
) -> None:
    """Check a folder of tokens, and show what is in it.

    All checksums are compared; some documents are shown as they begin.
    """
    with user_errors(TextError, TokenizerError):
        found = TextFolder(folder)
        with progress("checking"):
            found.verify()
        lines = [counts_text(found), *_facts(found), "", *_beginnings(found)]
    screen = Screen()
    for line in lines:
        screen.line(line)


def counts_text(found: TextFolder) -> str:
    """How much is there, and what was noticed when it was built."""
    facts, size = found.manifest, found.manifest["bytes"]
    text = (
        f"{counted(found.documents, 'document')}, "
        f"{f'{size / 1e6:,.1f} MB' if size >= 10**5 else counted(size, 'byte')} of text, "
        f"{found.tokens:,} tokens of {size / found.tokens:.2f} bytes"
    )
    if facts["empty"]:
        text += f"; {counted(facts['empty'], 'empty document')} left out"
    if facts["replaced"]:
        text += f"; {counted(facts['replaced'], 'character')} replaced, as they were not UTF-8"
    if facts["unknown"]:
        text += f"; {counted(facts['unknown'], 'token')} of what the tokenizer does not know"
    return text


def shown(name: str) -> str:
    """A name that a terminal shows as it is."""
    return name if name.isprintable() else repr(name)


def _facts(found: TextFolder) -> list[str]:
    facts = found.manifest
    shards = sum(name.startswith("shard-") for name in facts["files"])
    sources = [name for name, *_ in facts["sources"]]
    names = ", ".join(map(shown, sources[:SHOWN])) + (", ..." if len(sources) > SHOWN else "")
    end = facts["end_of_text"]
    return [
        f"tokenizer    {found.tokenizer}: {found.vocab_size:,} ids; {shown(end['token'])} "
        f"({end['id']}) ends a document",
        f"files        {counted(shards, 'shard')}, uint{8 * int(facts['dtype'][-1])}; all "
        "checksums are right",
        f"made from    {counted(len(sources), 'source')}: {names}",
    ]


def _beginnings(found: TextFolder) -> list[str]:
    """How some documents begin, evenly spread, on a line each."""
    tokenizer = load_tokenizer(found.path, found.vocab_size)
    count = min(SHOWN, found.documents)
    lines = []
    for number in sorted({index * found.documents // count for index in range(count)}):
        first, stop = found.document(number)
        ids = found.take(first, min(stop, first + BEGINNING)).tolist()
        text = tokenizer.decode(ids).encode("utf-8", "replace").decode()
        more = "..." if stop - first > BEGINNING else ""
        size = counted(stop - first, "token")
        lines.append(f"document {number:,} ({size}): {text!r}{more}")
    return lines
