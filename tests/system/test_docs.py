"""The pages name what is there: files, links, commands and words; and the tour can be read in an
afternoon."""

import ast
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ringlet.launcher.cli import make_app

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("comm", "nn", "runtime", "launcher")
DOCS = ROOT / "docs"
KINDS = ("tutorials", "how-to", "reference", "explanation")
PAGES = sorted(
    page
    for place in ("*.md", "docs/**/*.md", "examples/*.md", "benchmarks/*.md", "launcher/**/*.md")
    for page in ROOT.glob(place)
)

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(rf"(?<![\w/.~-])(?:{'|'.join(FOLDERS)}|examples|benchmarks|docs|tests)/[\w/.*-]+")
TERM = re.compile(r'^\| <a id="([a-z-]+)"></a>\*\*([^*]+)\*\* \|.*?\]\((\S+?)\)', re.MULTILINE)
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
COMMAND = re.compile(r"(?<![\w/.-])(?<!from )ringlet ([a-z]+)((?: [^`\n|#&]*)?)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def product():
    """All Python files of the product."""
    return [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def lines_of(paths):
    return sum(len(path.read_text().splitlines()) for path in paths)


def anchor(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    """What a link into a page may name."""
    text = page.read_text()
    return {
        *map(anchor, re.findall(r"^#+ (.*)$", text, re.M)),
        *re.findall(r'<a id="(.*?)">', text),
    }


@pages
def test_links_lead_somewhere(page):
    lost = []
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (place and place not in anchors(target)):
            lost.append(link)
    assert lost == []


@pages
def test_links_to_elsewhere_are_addresses(page):
    links = [urlsplit(link) for link in LINK.findall(page.read_text()) if ":" in link]
    assert [link for link in links if link.scheme != "https" or "." not in link.netloc] == []


@pages
def test_files_that_are_named_exist(page):
    named = {name.rstrip("./*") for name in FILE.findall(page.read_text())}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pages
def test_commands_that_are_shown_exist(page):
    commands = make_app().commands
    wrong = []
    shown = "\n".join(CODE.findall(page.read_text()))
    for name, rest in COMMAND.findall(shown):
        own = re.split(r" \S+\.py\b| -- ", f"{rest} ")[0]  # what follows is another's
        wrong += [f"ringlet {name}{rest}: {option}" for option in unknown(commands.get(name), own)]
    assert wrong == []


def unknown(command, words):
    """The options among the words of a command line that the command does not have."""
    if command is None:
        return ["no such command"]
    children = getattr(command, "commands", {})
    if children:  # `explain` takes other words than its commands for a collective
        first = (words.split() or [""])[0]
        return unknown(children.get(first) or children.get("collective"), words) if first else []
    known = {"--help"}.union(*(param.opts + param.secondary_opts for param in command.params))
    return [option for option in re.findall(r"(?<= )--[a-z][\w-]*", words) if option not in known]


def test_the_core_can_be_read_in_an_afternoon():
    links = LINK.findall((DOCS / "tutorials/tour.md").read_text())
    files = [DOCS / "tutorials" / link for link in links if link.endswith(".py")]
    assert len(set(files)) == len(files) >= 10
    assert lines_of(files) <= 3000


def test_what_the_tour_points_at_is_there():
    code = "\n".join(path.read_text() for path in [*product(), *ROOT.glob("examples/*.py")])
    text = (DOCS / "tutorials/tour.md").read_text()
    names = re.findall(r"`(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)`", text)
    assert len(names) > 30
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_the_readme_says_how_large_all_of_it_is():
    claims = re.findall(r"about ([\d,]+) lines", (ROOT / "README.md").read_text())
    assert claims
    for claim in claims:
        assert lines_of(product()) == pytest.approx(int(claim.replace(",", "")), rel=0.1)


def test_the_words_of_the_glossary_are_in_the_code():
    page = DOCS / "reference/glossary.md"
    text = page.read_text()
    terms = TERM.findall(text)
    assert len(terms) == text.count("\n| <a id=") > 30
    lost = []
    for name, term, file in terms:
        assert name == term.replace(" ", "-")
        spelled = r"[\s_-]*".join(re.split(r"[ -]", term))
        code = (page.parent / file).read_text()
        if not re.search(spelled, code, re.IGNORECASE):
            lost.append(f"{term}: {file}")
    assert lost == []


def test_the_glossary_is_in_order():
    for part in (DOCS / "reference/glossary.md").read_text().split("\n## ")[1:]:
        terms = [term for _, term, _ in TERM.findall(part)]
        assert terms == sorted(terms)


def test_each_page_is_of_one_kind_and_in_the_index():
    assert [page.name for page in DOCS.glob("*.md")] == ["README.md"]
    parts = re.split(r"^## (.*)$", (DOCS / "README.md").read_text(), flags=re.M)
    listed = dict(zip(parts[1::2], map(LINK.findall, parts[2::2]), strict=True))
    for kind, links in zip(KINDS, listed.values(), strict=False):
        pages = [str(page.relative_to(DOCS)) for page in (DOCS / kind).glob("*.md")]
        assert sorted(pages) == sorted({link for link in links if link.startswith(f"{kind}/")})
        assert all(link.startswith((f"{kind}/", "../launcher/lessons")) for link in links), kind


def test_contributing_has_the_order_that_is_tested():
    tree = ast.parse((ROOT / "tests/system/test_layering.py").read_text())
    order = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ORDER"
    )
    table = re.findall(r"^ *\| `(\w+)` \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    said = {house: [set(level.split(", ")) for level in text.split("; ")] for house, text in table}
    assert said == order
