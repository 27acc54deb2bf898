"""The documentation as a site: it builds without a warning, its links hold, and it needs no
network."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]

LOADS = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
"""What a page loads, beside links that a reader may follow."""


class Page(HTMLParser):
    """The links, the anchors, and what is loaded."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.loaded = [], {"", "top"}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value is not None:
                self.links.append(value)
                if (tag, name) in LOADS:
                    self.loaded.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and its pages by path."""
    pytest.importorskip("furo", reason="needs ringlet[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", "docs", ".", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert built.returncode == 0, built.stderr
    return folder, {path: Page(path) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_every_page_is_there(site):
    folder, pages = site
    written = [
        page
        for place in ("docs/**/*.md", "launcher/lessons/*/lesson.md", "*.md", "examples/*.md")
        for page in ROOT.glob(place)
    ]
    assert len(written) > 40
    made = [folder / page.relative_to(ROOT).with_suffix(".html") for page in written]
    assert [page for page in made if page not in pages] == []
    assert folder / "index.html" in pages


@pytest.mark.slow
def test_all_links_hold(site):
    folder, pages = site
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {""}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                lost.append(f"{path.relative_to(folder)}: {link}")
    assert lost == []


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    folder, pages = site
    loaded = {link for page in pages.values() for link in page.loaded}
    schemes = {urlsplit(link).scheme for link in loaded}
    assert schemes <= {"", "data"}, loaded
    assert not any(urlsplit(link).netloc for link in loaded)
    for style in folder.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", style.read_text()), style
