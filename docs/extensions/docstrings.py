"""Docstrings as they are written here, for Sphinx: plain paragraphs, `code`, indented examples,
lists of `- `. Nothing else in them is markup."""

import re
from typing import Any

import numpy.typing as npt
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

from ringlet import comm

SHORT = {
    stringify_annotation(long, "smart"): short
    for long, short in [
        (npt.NDArray[Any], "Array"), (npt.ArrayLike, "ArrayLike"), (npt.DTypeLike, "DTypeLike")
    ]
}  # fmt: skip
"""NumPy's names of types, which are written out where a signature is inspected."""


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("autodoc-process-signature", shorten)
    for name in comm.__all__:
        getattr(comm, name)  # which imports it: Sphinx documents what is there
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def rewrite(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the lines into reStructuredText that says the same."""
    lines[:] = _restructured("\n".join(lines)).splitlines()


def shorten(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """Call NumPy's types by their names."""
    for long, short in SHORT.items():
        signature = signature and signature.replace(long, short)
        result = result and result.replace(long, short)
    return signature, result


def _restructured(text: str) -> str:
    parts = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        if part.startswith("    "):
            parts.append(f"::\n\n{part}")
        else:
            items = re.split(r"\n(?=- )", part)
            parts += [_escaped(item) for item in items]
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Text in which only `code` and a list's mark are markup."""
    parts = re.split(r"`([^`]+)`", text)
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = rf"\ ``{part}``\ "  # escaped spaces vanish, and let it stand in a word
        else:
            parts[index] = re.sub(r"([\\*_|`])", r"\\\1", part)
    return "".join(parts)
