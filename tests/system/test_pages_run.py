"""Every command and block of code of README and docs runs, and prints what the page shows."""

import pytest
from printed_blocks import ROOT, blocks, failures, has_quick, has_slow

PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted(ROOT.glob("docs/**/*.md"))]

TEXT = {"text", "toml", "{eval-rst}"}
"""Languages of blocks that are no code to run."""


def of(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@of([page for page in PAGES if has_quick(page)])
def test_the_blocks_of_a_page(page, tmp_path, capfd):
    assert failures(page, tmp_path, capfd) == []


@pytest.mark.slow
@of([page for page in PAGES if has_slow(page)])
def test_all_blocks_of_a_page(page, tmp_path, capfd):
    assert failures(page, tmp_path, capfd, slow=True) == []


@of(PAGES)
def test_each_block_runs_or_says_why_not(page):
    found = blocks(page)
    unknown = [
        block.line
        for block in found
        if not (block.runs or "not run" in block.notes or block.language in TEXT)
    ]
    assert unknown == []
