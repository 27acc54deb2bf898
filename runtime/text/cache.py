"""Folders of tokens that are built on the way to training, and kept for the next run."""

import hashlib
import json
import os
from pathlib import Path

from ringlet.runtime.text.build import Progress, Request, build
from ringlet.runtime.text.encoder import tokenizer_file
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import TextFolder
from ringlet.runtime.text.output import writing
from ringlet.runtime.text.sources import STANDARD_INPUT, Form, find_sources


def silent(phase: str, read: int, of: int, tokens: int) -> None:
    """Shows no progress."""


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ringlet/text, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ringlet" / "text"


def cached(path: str, tokenizer: Path, progress: Progress = silent) -> TextFolder:
    """The tokens of a file, folder or pattern, from the cache: built there, unless the same text
    and tokenizer were before. Waits for another process that builds them. Raises TextError."""
    if path == STANDARD_INPUT:
        raise TextError("standard input can be read only once: use `ringlet data build`")
    form = Form()
    sources, _ = find_sources([str(Path.cwd() / path)], form)
    request = Request(sources, form, tokenizer_file(tokenizer))
    name = hashlib.sha256(json.dumps(request.plan(), sort_keys=True).encode()).hexdigest()[:16]
    return build(cache_folder() / f"{Path(path).stem}-{name}", request, progress, wait=True)


def write_once(path: Path, text: str) -> str:
    """Write a file of the cache, unless it is there; returns its path. Raises TextError."""
    if not path.exists():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    return str(path)
