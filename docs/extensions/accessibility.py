"""What the theme and Markdown leave to be desired by readers with a keyboard or a screen reader."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

EMPTY = r'<th class="head">(?:<p></p>)?</th>'

CHANGES = [
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),
    (
        r'<aside class="toc-drawer( no-toc)?">',
        r'<aside class="toc-drawer\1" aria-label="This page">',
    ),
    (r'role="heading">', r'role="heading" aria-level="2">'),
    ('<div id="search-results">', '<h1>Search</h1><div id="search-results">'),
    # Markdown's tables have a head, whether or not there is anything in it.
    (rf"<thead>\s*<tr[^>]*>(?:\s*{EMPTY})+\s*</tr>\s*</thead>", ""),
    (EMPTY, '<td class="head"></td>'),
]
"""Patterns in the site's pages, and what takes their place."""


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", change)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def change(app: Sphinx, error: Exception | None) -> None:
    """Make the changes in every page."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            old = text = page.read_text(encoding="utf-8")
            for pattern, instead in CHANGES:
                text = re.sub(pattern, instead, text)
            if text != old:
                page.write_text(text, encoding="utf-8")
