"""`ringlet data build`: text, by a tokenizer, into a folder to train on."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ringlet.launcher.commands.data.progress import building
from ringlet.launcher.commands.data.show import counts_text, shown
from ringlet.launcher.commands.options import Argument, with_options
from ringlet.launcher.commands.pasted import command
from ringlet.launcher.errors import UserError, make_folder, user_errors
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.output import Screen
from ringlet.runtime.text.build import Request
from ringlet.runtime.text.build import build as build_folder
from ringlet.runtime.text.encoder import tokenizer_file
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.sources import KINDS, STANDARD_INPUT, Form, find_sources, kind_by_name


@dataclass(frozen=True)
class BuildOptions:
    """What becomes of which text."""

    out: Path = option(..., "Folder to write; with one that is incomplete, the build goes on.")
    tokenizer: Path | None = option(
        None, "File tokenizer.json, or a folder that has one.", metavar="FILE"
    )
    train_tokenizer: int | None = option(
        None, "First learn a tokenizer of so many tokens from the text, byte-level BPE as GPT-2's.",
        metavar="TOKENS",
    )  # fmt: skip
    end_of_text: str = option(
        "", "Token that ends every document.", metavar="TOKEN",
        shown="what the tokenizer's folder or its special tokens say",
    )  # fmt: skip
    column: str = option("text", "Column of JSON lines and CSV that has the text.", metavar="NAME")
    format: str = option(
        "text", f"Of files whose names do not say it, and of standard input: {', '.join(KINDS)}."
    )
    separator: str = option(
        "", r"Text that stands between documents in text files, as in '\n\n'.",
        shown="none: a file is a document",
    )  # fmt: skip
    threads: int | None = option(
        None, "Processors to encode with.", least=1, most=1024, shown="all"
    )


@with_options(options=BuildOptions)
def build(
    texts: Annotated[
        list[str],
        Argument(
            "TEXT...",
            "Files, folders, patterns, or - for standard input; .jsonl, .csv and .tsv have "
            "documents in a column, and any may be .gz or .zst.",
        ),
    ],
    *,
    options: BuildOptions,
) -> None:
    """Make text into tokens to train on.

    Every file is a document, or every row of JSON lines and CSV, and ends with the end-of-text
    token. A build that was interrupted goes on where it was, with the same command, and ends with
    the same bytes.
    """
    with user_errors(TextError):
        request, left_out = _request(texts, options)
        if options.threads is not None:
            os.environ["RAYON_NUM_THREADS"] = str(options.threads)
        make_folder(options.out, "--out")
        with building() as tell:
            made = build_folder(options.out, request, tell)
    screen = Screen()
    screen.line(f"{options.out}: {counts_text(made)}")
    if left_out:
        names = ", ".join(map(shown, left_out[:3])) + (", ..." if len(left_out) > 3 else "")
        screen.line(f"left out, as they are no text: {len(left_out):,} files ({names})")
    screen.line(f"train  {command('train', '--data', options.out)}")


def _request(texts: list[str], options: BuildOptions) -> tuple[Request, list[str]]:
    if (options.tokenizer is None) == (options.train_tokenizer is None):
        raise UserError("give one of --tokenizer FILE and --train-tokenizer TOKENS")
    if options.train_tokenizer is not None and STANDARD_INPUT in texts:
        raise UserError(
            "standard input can be read only once, and --train-tokenizer reads the text before it "
            "is encoded: save it in a file"
        )
    if options.format not in KINDS:
        raise UserError(f"--format is {options.format!r}; there are {', '.join(KINDS)}")
    separator = options.separator.replace(r"\n", "\n").replace(r"\t", "\t")
    form = Form(options.format, options.column, separator)
    sources, left_out = find_sources(texts, form)
    kinds = {source.kind for source in sources}
    if options.separator and "text" not in kinds:
        raise UserError("--separator would do nothing: there are no text files")
    if options.format != "text" and all(kind_by_name(source.path) for source in sources):
        raise UserError("--format would do nothing: the names of all files say what they are")
    if options.column != "text" and kinds == {"text"}:
        raise UserError("--column would do nothing: there are neither JSON lines nor CSV")
    tokenizer = None if options.tokenizer is None else tokenizer_file(options.tokenizer)
    learned = options.train_tokenizer or 0
    return Request(sources, form, tokenizer, learned, options.end_of_text), left_out
