"""The checks of lessons, as `ringlet lesson check` calls them, in this process."""

import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from ringlet.launcher.lessons.judge import judge


@pytest.fixture
def said(tmp_path: Path) -> Callable[[str, str], list[str]]:
    """`said(folder, source)`: what the check of this lesson says about a whole exercise.py."""

    def say(folder: str, source: str) -> list[str]:
        path = tmp_path / "exercise.py"
        path.write_text(textwrap.dedent(source))
        check = import_module(f"ringlet.launcher.lessons.{folder}.check").check
        return list(judge(check, path))

    return say
