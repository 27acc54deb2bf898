"""Lessons as notebooks, which run from top to bottom and print what the lesson shows."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest
from printed_blocks import blocks, commands, differences

from ringlet.launcher.lessons.course import HERE, LESSONS, start
from ringlet.launcher.lessons.notebook import FILE, notebook

TEXT = """# A lesson

Words, and a [link](course.py).

```python
import numpy as np
print(np.ones(2))
```

```text
[1. 1.]
```

```console
$ ringlet explain all-reduce \\
    --svg ring.svg
some output
$ echo $HOME {x}
```

```python ranks=2
world.size
```

<!-- not run: needs a GPU -->
```sh
nvidia-smi
```

```python
# average.py
print(1)
```

```text
a drawing
```
"""


def cells(text):
    made = json.loads(notebook(text))
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    return [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]


def test_a_text_becomes_cells():
    assert cells(TEXT) == [
        ("markdown", "# A lesson\n\nWords, and a [link](course.py)."),
        ("code", "%load_ext ringlet.launcher.notebook"),
        ("code", "import numpy as np\nprint(np.ones(2))"),
        ("code", "!ringlet explain all-reduce --svg ring.svg"),
        ("code", 'from IPython.display import SVG\n\nSVG("ring.svg")'),
        ("code", "!echo $$HOME {{x}}"),
        ("code", "%%ranks 2\nworld.size"),
        ("markdown", "<!-- not run: needs a GPU -->\n```sh\nnvidia-smi\n```"),
        ("code", "%%writefile average.py\n# average.py\nprint(1)\n"),
        ("markdown", "```text\na drawing\n```"),
    ]


@pytest.fixture
def run_through(monkeypatch):
    """`run_through(file, page)`: a kernel as Jupyter starts it runs the notebook in its folder from
    top to bottom, and prints what the page shows."""
    nbclient = pytest.importorskip("nbclient", reason="pip install 'ringlet[test]'")
    nbformat = pytest.importorskip("nbformat", reason="pip install 'ringlet[test]'")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = "import os; os.environ['TERM'] = 'dumb'"  # no lines that are written over

    def run(file, page):
        made = nbformat.read(file, as_version=4)
        nbformat.validate(made)
        made.cells.insert(0, nbformat.v4.new_code_cell(plain))
        resources = {"metadata": {"path": str(file.parent)}}
        nbclient.NotebookClient(made, timeout=240, resources=resources).execute()
        printed = [
            "".join(output.get("text", "") for output in cell.outputs)
            .replace("\r\n", "\n")
            .replace(f"{socket.gethostname()}:", "host:")
            for cell in made.cells[1:]
            if cell.cell_type == "code" and not cell.source.startswith(("%load", "from IPython"))
        ]
        shown = list(_shown(page))
        assert len(printed) == len(shown) > 0
        for expected, found in zip(shown, printed, strict=True):
            assert differences(expected, found, exact=False) == ""

    return run


SHORT = """
```python
x = 3
```

```console
$ echo three
three
```

```python ranks=2
print(world.all_gather_object(x + world.rank))
world.rank
```

```text
rank 0: [3, 4]
rank 0: 0
rank 1: [3, 4]
rank 1: 1
```
"""


def test_a_notebook_runs_and_prints_what_its_text_shows(run_through, tmp_path):
    page, file = tmp_path / "lesson.md", tmp_path / "lesson.ipynb"
    page.write_text(SHORT)
    file.write_text(notebook(SHORT))
    run_through(file, page)


THERE = [lesson for lesson in LESSONS if (HERE / lesson.folder).exists()]


@pytest.mark.slow
@pytest.mark.parametrize("lesson", THERE, ids=lambda lesson: lesson.folder)
def test_so_does_every_lessons(run_through, lesson, tmp_path):
    file = start(lesson, tmp_path) / "lesson.ipynb"
    run_through(file, HERE / lesson.folder / "lesson.md")


def _shown(page):
    """What the cells print, in their order."""
    for block in blocks(page):
        if block.language in ("console", "sh") and block.runs:
            prompt = "$ " if block.language == "console" else ""
            for _, text in commands(block.text, prompt):
                yield text if prompt else "..."
        elif block.language == "python" and block.runs:
            yield "Writing ..." if FILE.match(block.text) else block.shown or ""
