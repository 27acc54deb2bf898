"""A lesson as a notebook, which runs from top to bottom.

Commands become `!ringlet ...`, each with the picture that it draws below it; Python becomes cells,
which share their names; a block for ranks (```python ranks=4) begins with `%%ranks 4`. What the
text shows as printed is left out: the cells print it.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

BLOCK = re.compile(
    r"^```(?P<kind>console|sh|python)(?P<info>[^\n`]*)\n(?P<code>.*?)^```$"
    r"(?P<shown>(?:\s*^```text\n.*?^```$)?)",
    re.DOTALL | re.MULTILINE,
)
SKIPPED = re.compile(r"<!-- not run((?!-->).)*-->\s*\Z", re.DOTALL)
FILE = re.compile(r"# ([\w/]+\.py)\n")
PICTURE = re.compile(r"--svg (\S+)")

EXTENSION = "%load_ext ringlet.launcher.notebook"
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}


def notebook(text: str, prose: Callable[[str], str] = lambda words: words) -> str:
    """The notebook's file, JSON (nbformat 4.5), from a lesson's Markdown; `prose` has the last word
    on what stands between the blocks."""
    cells = [cell for cell in _cells(text, prose) if cell["source"]]
    if any(cell["source"].startswith("%%ranks") for cell in cells):
        cells.insert(1, _code(EXTENSION))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
        cell["source"] = cell["source"].splitlines(keepends=True)
    whole = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cells(text: str, prose: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    words, end = "", 0
    for block in BLOCK.finditer(text):
        words += text[end : block.start()]
        end = block.end()
        if SKIPPED.search(words):
            words += block[0]
            continue
        yield _markdown(prose(words))
        words = block["shown"]
        if block["kind"] != "python":
            yield from map(_code, _commands(block["kind"], block["code"]))
        elif file := FILE.match(block["code"]):
            yield _code(f"%%writefile {file[1]}\n{block['code']}")
        else:
            yield _code(_python(block["info"].split(), block["code"].rstrip()))
            words = ""
    yield _markdown(prose(words + text[end:]))


def _python(info: list[str], code: str) -> str:
    ranks = (word.removeprefix("ranks=") for word in info if word.startswith("ranks="))
    return "".join(f"%%ranks {size}\n" for size in ranks) + code


def _commands(kind: str, code: str) -> Iterator[str]:
    """Commands on a line each, and the pictures that they draw."""
    prompt = "$ " if kind == "console" else ""
    for line in re.sub(r"\\\n\s*", "", code).splitlines():
        command = line.removeprefix(prompt).strip()
        if line.startswith(prompt) and command and not command.startswith("#"):
            # Braces and dollars are IPython's.
            yield "!" + re.sub(r"([{}$])", r"\1\1", command)
            for picture in PICTURE.findall(command):
                yield f'from IPython.display import SVG\n\nSVG("{picture}")'


def _markdown(words: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": words.strip()}


def _code(source: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"cell_type": "code", "metadata": {}, "source": source}
    return {**empty, "execution_count": None, "outputs": []}
