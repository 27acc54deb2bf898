"""Every lesson is whole; the commands and blocks of its text run, and print what the text shows."""

import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest
from commands import outcome
from printed_blocks import failures, has_slow
from quickly import mostly_slow

from ringlet.launcher.lessons.course import EXERCISE, HERE, LESSONS, lesson_of
from ringlet.launcher.lessons.judge import judge

PARTS = ["Predict", "Run", "See", "Exercise", "Where the real thing is", "Questions"]

TEXTS = {path.parent.name: path for path in sorted(HERE.glob("*/lesson.md"))}


@pytest.mark.parametrize("lesson", mostly_slow(TEXTS, "pipelines"))
def test_what_a_lesson_shows_is_what_is_printed(lesson, tmp_path, capfd):
    assert failures(TEXTS[lesson], tmp_path, capfd) == []


@pytest.mark.slow
@pytest.mark.parametrize("lesson", [name for name, path in TEXTS.items() if has_slow(path)])
def test_so_do_blocks_that_train(lesson, tmp_path, capfd):
    assert failures(TEXTS[lesson], tmp_path, capfd, slow=True) == []


@pytest.mark.parametrize("lesson", TEXTS)
def test_a_lesson_has_all_its_parts(lesson):
    text = TEXTS[lesson].read_text()
    title = next(each.title for each in LESSONS if each.folder == lesson)
    assert text.startswith(f"# Lesson {[each.folder for each in LESSONS].index(lesson) + 1}: ")
    assert text.splitlines()[0].endswith(title)
    assert re.findall(r"^## (.*)$", text, re.M) == PARTS
    assert "--svg" in text
    assert text.count("<details>") == text.count("</details>") >= 1
    module = import_module(f"ringlet.launcher.lessons.{lesson}.check")
    assert isinstance(module.HINTS, tuple)
    assert len(module.HINTS) >= 3
    (said,) = judge(module.check, TEXTS[lesson].with_name(EXERCISE))
    assert re.match(r"exercise.py, line \d+, in \w+: this is not written yet$", said)
    tests = runpy.run_path(str(Path(__file__).with_name(f"test_{lesson}.py")))
    assert len(tests["WRONG"]) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("lesson", TEXTS)
def test_a_student_does_the_lesson(lesson, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    solution = runpy.run_path(str(Path(__file__).with_name(f"test_{lesson}.py")))["SOLUTION"]
    done = lesson_of(lesson)
    assert outcome(capsys, "lesson", "start", lesson)[0] == 0
    code, said, _ = outcome(capsys, "lesson", "check", lesson)
    assert code == 1
    assert "this is not written yet" in said
    assert outcome(capsys, "lesson", "hint", lesson)[1].startswith("Hint 1 of ")
    (tmp_path / done.name / EXERCISE).write_text(f"print('hello', 2)\n{solution}")
    code, said, _ = outcome(capsys, "lesson", "check", lesson)
    assert code == 0
    assert said.startswith(f"| hello 2\nLesson {done.number}, {done.title}: this is right.\n")
    listed = outcome(capsys, "lesson")[1]
    assert f"{done.number:>3}  done     {done.title}: " in listed


NONSENSE = ("None", "0", "-1", "float('nan')", "'x'", "[]", "[None]", "()", "lambda: 1", "10**30")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lesson", TEXTS)
def test_no_function_may_return_nonsense(lesson, tmp_path):
    check = import_module(f"ringlet.launcher.lessons.{lesson}.check").check
    solution = runpy.run_path(str(Path(__file__).with_name(f"test_{lesson}.py")))["SOLUTION"]
    exercise = TEXTS[lesson].with_name(EXERCISE).read_text()
    asked = re.findall(r"^def (\w+)(?:(?!^def ).)*raise NotImplementedError", exercise, re.M | re.S)
    assert asked
    path = tmp_path / EXERCISE
    for name in asked:
        for value in NONSENSE:
            path.write_text(f"{solution}\ndef {name}(*words, **named):\n    return {value}\n")
            said = list(judge(check, path))
            assert said, (name, value)
            assert not [text for text in said if "the check cannot use" in text], (name, value)


def test_all_lessons_are_listed():
    page = (HERE.parents[1] / "docs/tutorials/lessons.md").read_text()
    listed = re.findall(r"\| (\d+) \| \[.*\]\(../../launcher/lessons/(.*)/lesson.md\)", page)
    there = [lesson for lesson in LESSONS if lesson.folder in TEXTS]
    assert listed == [(str(lesson.number), lesson.folder) for lesson in there]
