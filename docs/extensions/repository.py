"""Links to files of the repository: the site has a page for each file that its pages name, and the
figures as they are."""

import html
import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

FIGURES = "docs/figures"
HEIGHT = re.compile(r'<meta name="figure-height" content="(\d+)">')


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(RepositoryLinks)
    app.connect("env-purge-doc", _forget)
    app.connect("html-collect-pages", pages)
    app.connect("build-finished", add_figures)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def _named(env: BuildEnvironment) -> dict[str, set[str]]:
    """Of each page the files and folders that it names."""
    if not hasattr(env, "repository_files"):
        env.repository_files = {}  # type: ignore[attr-defined]
    return env.repository_files


def _forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _named(env).pop(docname, None)


class RepositoryLinks(SphinxTransform):
    """Leads links to files and folders, which MyST takes for downloads or for nothing, to pages."""

    default_priority = 200

    def apply(self, **options: Any) -> None:
        folder = posixpath.dirname(self.env.docname)
        links = [*self.document.findall(download_reference)]
        links += [link for link in self.document.findall(pending_xref) if _is_path(link)]
        for link in links:
            path = posixpath.normpath(posixpath.join(folder, link["reftarget"].split("#")[0]))
            if not (Path(self.env.srcdir) / path).exists() or path.startswith(".."):
                continue  # which Sphinx reports
            if path.startswith(f"{FIGURES}/"):
                page = path
            else:
                page = f"{code_page(path)}.html"
                _named(self.env).setdefault(self.env.docname, set()).add(path)
            address = posixpath.relpath(page, folder or ".")
            pictures = [*link.findall(nodes.image)]
            if page == path and pictures:
                self._show(link, address, pictures[0])
            else:
                link.replace_self(_link(*link.children, address=address))

    def _show(self, link: nodes.Element, address: str, picture: nodes.Element) -> None:
        """The figure itself, in place of the paragraph with its picture."""
        text = html.escape(picture.get("alt", ""), quote=True)
        source = (Path(self.env.srcdir) / posixpath.dirname(self.env.docname) / address).read_text()
        height = HEIGHT.search(source)
        frame = (
            f'<iframe class="figure" src="{address}" title="{text}" loading="lazy" '
            f'height="{height[1] if height else 640}"></iframe>'
        )
        link.parent.replace_self(
            [
                nodes.raw("", frame, format="html"),
                nodes.paragraph(
                    "", "", _link(nodes.Text("The figure on a page of its own"), address=address)
                ),
            ]
        )


def _link(*children: nodes.Node, address: str) -> nodes.reference:
    return nodes.reference("", "", *children, refuri=address, internal=True)


def _is_path(link: nodes.Element) -> bool:
    return link.get("reftype") == "myst" and link.get("refdomain") is None


def code_page(path: str) -> str:
    """The page of a file or a folder."""
    return f"code/{path}"


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that is named, and for each folder with the files in it."""
    root = Path(app.srcdir)
    named = set().union(*_named(app.env).values())
    folders = {path for path in named if (root / path).is_dir()}
    inside = {path: sorted(_files(root / path)) for path in folders}
    files = named - folders | {f"{path}/{name}" for path in folders for name in inside[path]}
    for path in sorted(files):
        body = app.builder.highlighter.highlight_block(
            (root / path).read_text(encoding="utf-8"), _language(path)
        )
        yield _page(path, body)
    for path in sorted(folders):
        lines = [
            f'<li><a href="{posixpath.basename(path)}/{name}.html"><code>{name}</code></a></li>'
            for name in inside[path]
        ]
        yield _page(path, f"<ul>{''.join(lines)}</ul>")


def _page(path: str, body: str) -> tuple[str, dict[str, Any], str]:
    title = f"<h1><code>{path}</code></h1>"
    return code_page(path), {"title": path, "parents": [], "body": title + body}, "page.html"


def _files(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".py", ".toml"):
            yield path.name


def _language(path: str) -> str:
    try:
        return get_lexer_for_filename(path).aliases[0]
    except ClassNotFound:
        return "text"


def add_figures(app: Sphinx, error: Exception | None) -> None:
    """Copy the figures to where links lead, and the pictures that they are without scripts."""
    if error is None and app.builder.format == "html":
        code = shutil.ignore_patterns("*.py", "__pycache__")
        for name in (FIGURES, "docs/pictures"):
            source, target = Path(app.srcdir) / name, Path(app.outdir) / name
            shutil.copytree(source, target, ignore=code, dirs_exist_ok=True)
