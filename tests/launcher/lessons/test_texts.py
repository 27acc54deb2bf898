"""The commands and blocks of every lesson's text run, and print what the text shows."""

import re

import pytest
from printed_blocks import failures, has_slow
from quickly import mostly_slow

from ringlet.launcher.lessons.course import HERE, LESSONS

TEXTS = {path.parent.name: path for path in sorted(HERE.glob("*/lesson.md"))}


@pytest.mark.parametrize("lesson", mostly_slow(TEXTS, "pipelines"))
def test_what_a_lesson_shows_is_what_is_printed(lesson, tmp_path, capfd):
    assert failures(TEXTS[lesson], tmp_path, capfd) == []


@pytest.mark.slow
@pytest.mark.parametrize("lesson", [name for name, path in TEXTS.items() if has_slow(path)])
def test_so_do_blocks_that_train(lesson, tmp_path, capfd):
    assert failures(TEXTS[lesson], tmp_path, capfd, slow=True) == []


def test_all_lessons_are_listed():
    page = (HERE.parents[1] / "docs/tutorials/lessons.md").read_text()
    listed = re.findall(r"\| (\d+) \| \[.*\]\(../../launcher/lessons/(.*)/lesson.md\)", page)
    there = [lesson for lesson in LESSONS if lesson.folder in TEXTS]
    assert listed == [(str(lesson.number), lesson.folder) for lesson in there]
