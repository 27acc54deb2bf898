"""The contents of the site, from the tables of links that GitHub's readers see."""

import posixpath
import re
from typing import Any

from sphinx.application import Sphinx

LISTS = ("docs/README", "docs/tutorials/lessons")
"""Pages whose tables of links are the contents; each heading is a caption."""

LINK = re.compile(r"\[([^]]+)\]\(([^)\s#]+)\.md\)")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_entrance)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put a table of contents, which is not shown, under each heading of a list."""
    if docname in LISTS:
        parts = re.split(r"^(?=## )", source[0], flags=re.M)
        source[0] = "".join(part + _contents(docname, part) for part in parts)


def _contents(docname: str, part: str) -> str:
    folder = posixpath.dirname(docname)
    pages = [
        f"{title.replace('`', '')} <{posixpath.normpath(posixpath.join('/', folder, link))}>"
        for row in re.findall(r"^\|.*", part, re.M)
        for title, link in LINK.findall(row)
    ]
    if not pages:
        return ""
    caption = re.match(r"## (.*)", part)
    options = [":hidden:", *([f":caption: {caption[1]}"] if caption else [])]
    return "\n".join(["", "```{toctree}", *options, "", *pages, "```", "", ""])


def add_entrance(app: Sphinx, error: Exception | None) -> None:
    """index.html leads to the first page."""
    page = f"{app.config.root_doc}.html"
    if error is None and app.builder.format == "html":
        (app.outdir / "index.html").write_text(
            f'<!doctype html><html lang="en"><title>ringlet</title>'
            f'<meta http-equiv="refresh" content="0; url={page}"><a href="{page}">ringlet</a>\n'
        )
