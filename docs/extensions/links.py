"""Links among pages: to words of the glossary and other anchors, and by titles in place of names of
files."""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ANCHOR = re.compile(r'<a id="([\w-]+)">')


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(Titles)
    app.connect("doctree-read", add_anchors)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Titles(SphinxTransform):
    """A link whose text is the file's name, as in [comm.md](comm.md), gets the page's title."""

    default_priority = 200

    def apply(self, **options: Any) -> None:
        for link in self.document.findall(pending_xref):
            if link.get("refdomain") == "doc" and re.fullmatch(r"[\w/-]+\.md", link.astext()):
                link["refexplicit"] = False
                for inline in link.children:
                    inline.children = []


def add_anchors(app: Sphinx, doctree: nodes.document) -> None:
    """Let links lead to <a id="...">, as on GitHub, and not to headings alone."""
    known = app.env.metadata[app.env.docname].get("myst_slugs", {})
    for raw in doctree.findall(nodes.raw):
        for name in ANCHOR.findall(raw.astext()):
            known.setdefault(name, (None, name, name))
