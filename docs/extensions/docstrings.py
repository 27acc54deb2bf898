"""Docstrings as they are written here, for Sphinx: plain paragraphs, `code`, indented examples,
lists of `- `. Nothing else in them is markup."""

import re
from typing import Any

from sphinx.application import Sphinx

from ringlet import comm


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", rewrite)
    for name in comm.__all__:
        getattr(comm, name)  # which imports it: Sphinx documents what is there
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def rewrite(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the lines into reStructuredText that says the same."""
    lines[:] = _restructured("\n".join(lines)).splitlines()


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
