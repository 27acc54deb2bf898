"""`ringlet lesson`: folders for students, progress, and answers that misbehave."""

import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from commands import outcome
from quickly import mostly_slow
from waiting import alive, until

from ringlet.launcher.lessons.answers import check_answer
from ringlet.launcher.lessons.course import EXERCISE, HERE, LESSONS, for_student, lesson_of
from ringlet.launcher.lessons.judge import judge

PIPELINES = "lesson-03-pipelines"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_course_is_whole():
    assert [lesson.number for lesson in LESSONS] == list(range(1, len(LESSONS) + 1))
    for lesson in LESSONS:
        assert lesson_of(str(lesson.number)) == lesson_of(lesson.folder) == lesson


def test_a_lesson_is_started_once_and_its_progress_is_listed(here, capsys):
    _, listed, _ = outcome(capsys, "lesson")
    assert "  3           Pipelines: " in listed
    assert "lesson start 1" in listed
    code, said, _ = outcome(capsys, "lesson", "start", "3")
    assert code == 0
    assert f"{PIPELINES}/README.md" in said
    assert sorted(path.name for path in (here / PIPELINES).iterdir()) == [
        "README.md",
        "exercise.py",
        "lesson.ipynb",
    ]
    exercise = here / PIPELINES / EXERCISE
    assert exercise.read_text() == (HERE / "pipelines" / EXERCISE).read_text()
    exercise.write_text("mine")
    code, said, error = outcome(capsys, "lesson", "start", "pipelines")
    assert (code, said) == (2, "")
    assert re.fullmatch(rf"ringlet: {PIPELINES}/exercise.py is there already; .*\n", error)
    assert exercise.read_text() == "mine"
    _, listed, _ = outcome(capsys, "lesson", "list")
    assert "  3  started  Pipelines: " in listed
    assert "lesson check 3" in listed


def test_a_command_in_a_lessons_folder_means_its_neighbours(here, capsys, monkeypatch):
    outcome(capsys, "lesson", "start", "3", "--folder", "course")
    assert (here / "course" / PIPELINES / EXERCISE).exists()
    monkeypatch.chdir(here / "course" / PIPELINES)
    _, listed, _ = outcome(capsys, "lesson")
    assert "  3  started" in listed
    assert outcome(capsys, "lesson", "hint", "3")[0] == 0
    assert [path.name for path in (here / "course").iterdir()] == [PIPELINES]


def test_hints_come_one_by_one(here, capsys):
    assert outcome(capsys, "lesson", "hint", "3")[0] == 2  # nobody knows how many were given
    outcome(capsys, "lesson", "start", "3")
    hints = lesson_of("3").hints
    for number in [*range(1, len(hints) + 1), len(hints)]:
        _, said, _ = outcome(capsys, "lesson", "hint", "3")
        assert said == f"Hint {number} of {len(hints)}: {hints[number - 1]}\n"
    _, said, _ = outcome(capsys, "lesson", "hint", "3", "--all")
    assert said.count("Hint ") == len(hints)


WRONG = {
    "a number that is none": (("start", "13"), "there is no lesson '13': they are 1 to 12"),
    "zero": (("check", "0"), "there is no lesson '0'"),
    "negative": (("check", "--", "-1"), "there is no lesson '-1'"),
    "a name that is none": (("hint", "rings"), "there is no lesson 'rings'"),
    "not started": (("check", "3"), f"there is no {PIPELINES}/exercise.py: ringlet lesson start 3"),
    "a folder that is missing": (
        ("check", "3", "--folder", "gone"), f"there is no gone/{PIPELINES}/exercise.py",
    ),
    "under a file": (("start", "3", "--folder", "file"), "file is a file"),
    "a link to nowhere": (("start", "3", "--folder", "link"), "a link to nowhere"),
    "no folder": (("start", "3", "--folder", ""), "--folder is empty"),
}  # fmt: skip


def test_what_the_user_can_mend_is_one_line(here, capsys):
    (here / "file").touch()
    (here / "link").symlink_to("nowhere")
    for words, text in WRONG.values():
        code, said, error = outcome(capsys, "lesson", *words)
        assert (code, said) == (2, ""), words
        assert re.fullmatch(r"ringlet: .*\n", error), words
        assert text in error
    assert sorted(path.name for path in here.iterdir()) == ["file", "link"]


def test_places_that_cannot_be_written(here, capsys):
    (here / PIPELINES / "README.md.tmp").mkdir(parents=True)  # also where root may do everything
    code, _, error = outcome(capsys, "lesson", "start", "3")
    assert code == 2
    assert f"cannot write into {PIPELINES}" in error
    assert not (here / PIPELINES / EXERCISE).exists()
    (here / PIPELINES / EXERCISE).touch()
    (here / PIPELINES / ".progress.json.tmp").mkdir()
    code, said, error = outcome(capsys, "lesson", "hint", "3")
    assert code == 0
    assert said.startswith("Hint 1 of ")
    assert "this is not remembered" in error


def test_progress_that_cannot_be_read_is_begun_again(here, capsys):
    outcome(capsys, "lesson", "start", "3")
    for text in ("{", "[1]", '{"hints": "many"}', '{"hints": -3}', '{"hints": true}', "\udcff"):
        (here / PIPELINES / ".progress.json").write_bytes(text.encode(errors="surrogateescape"))
        assert outcome(capsys, "lesson", "hint", "3")[1].startswith("Hint 1 of "), text


def test_a_students_links_lead_to_files_that_are_there(tmp_path):
    text = (
        "<!-- slow -->\n[prove](../../comm/schedules/prove.py#L3), [page](../../docs/none.md) "
        "![picture](../../docs/none.svg) [there](https://example.org/a(b)) [below](#see)"
    )
    root = HERE.parents[1]
    assert for_student(text, HERE).split(" ", 1) == [
        f"[prove](<{root / 'comm/schedules/prove.py'}#L3>),",
        "page (docs/none.md) *picture* (picture: docs/none.svg) [there](https://example.org/a(b)) "
        "[below](#see)",
    ]


MISTAKES = {
    "": "exercise.py has no f, which the exercise asks for",
    "def f(:": "exercise.py, line 1: SyntaxError: invalid syntax",
    "def f():\nreturn 1": "exercise.py, line 2: IndentationError: expected an indented block after",
    "x = '\0'": "exercise.py: SyntaxError: source code string cannot contain null bytes",
    "# a\n# caf\udce9": "exercise.py, line 2: this is not UTF-8",
    "import nosuch": "exercise.py, line 1: ModuleNotFoundError: No module named 'nosuch'",
    "import sys\nsys.exit(0)": "exercise.py, line 2: SystemExit: 0",
    "def f():\n  exit()": "exercise.py, line 2, in f: ",
    "def f():\n  raise NotImplementedError": "exercise.py, line 2, in f: this is not written yet",
    "def f():\n  return 1 / 0": "exercise.py, line 2, in f: ZeroDivisionError: division by zero",
    "def f():\n  return [1].index(2)": "exercise.py, line 2, in f: ValueError: ",
    "def f():\n  return f()": "exercise.py, line 2, in f: RecursionError: ",
    "raise KeyboardInterrupt": "exercise.py, line 1: KeyboardInterrupt",
    "class E(Exception):\n  def __str__(self): return 1\nraise E": "exercise.py, line 3: ",
    "raise ValueError('x' * 10_000)": "exercise.py, line 1: ValueError: xxx",
    "f = 5": "the check cannot use exercise.py: TypeError: 'int' object is not callable",
    "def f(x): return 1": "the check cannot use exercise.py: TypeError: f() missing 1 required",
    "from dataclasses import dataclass\n@dataclass\nclass A: x: int\ndef f(): return A(2).x": "two",
}


def test_whatever_an_answer_does_wrong_is_told(tmp_path):
    def check(answer):
        if answer.f() == 2:
            yield "two"

    path = tmp_path / EXERCISE
    assert list(judge(check, path)) == ["exercise.py cannot be read: No such file or directory"]
    for source, words in MISTAKES.items():
        path.write_bytes(source.encode(errors="surrogateescape"))
        (text,) = judge(check, path)
        assert text.startswith(words), source
        assert len(text) < 1000


CHILDREN = {
    "loops": ("while True:\n  pass", r"line 1: does not come to an end: stopped after 0.5 s"),
    "loops in a function": (
        "def bubble(**k):\n  for i in iter(int, 1): print('x' * 100)",
        r"line 2, in bubble: does not come to an end",
    ),
    "will not be stopped": (
        "import signal\nfor s in (2, 15):\n  signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n  try: sum(range(10_000))\n  except BaseException: pass",
        r"line 5: does not come to an end",
    ),
    "ends": ("import os\nos._exit(3)", r": the process exited with code 3 in the middle"),
    "closes everything": ("import os\nos.closerange(0, 100)", r"in the middle of the check"),
    "is killed": ("import os\nos.kill(os.getpid(), 9)", r"was killed by signal 9 \(SIGKILL\)"),
    "crashes": (
        "import ctypes\ndef bubble(**k): ctypes.string_at(0)",
        r"line 2, in bubble: the process was killed by signal 11 \(SIGSEGV\)",
    ),
    "wants memory": (
        "def bubble(**k):\n  x = []\n  while True: x.append(bytearray(1 << 29))",
        r"line 3, in bubble: MemoryError",
    ),
    "asks": ("input()", r"line 1: EOFError"),
    "forks": ("import os\nos.fork()", r"exercise.py has no bubble"),
    "imports a neighbour": ("import helper\nassert helper.x", r"exercise.py has no bubble"),
    "leaves a fork": (
        "import os\nif os.fork(): os._exit(0)\nwhile True: pass",
        r"exited with code 0 in the middle",
    ),
    "leaves threads": (
        "import threading\ndef f():\n  while True: pass\nthreading.Thread(target=f).start()",
        r"exercise.py has no bubble",
    ),
    "closes its output": ("import sys\nsys.stdout.close()", r"exercise.py has no bubble"),
}


@pytest.mark.parametrize("case", mostly_slow(CHILDREN, "loops in a function"))
def test_an_answer_that_misbehaves_is_stopped_and_told(case, tmp_path):
    source, words = CHILDREN[case]
    path = tmp_path / EXERCISE
    path.with_name("helper.py").write_text("x = 1")
    path.write_text(f"import os\nopen({str(tmp_path / 'group')!r}, 'w').write(str(os.getpgrp()))\n")
    lines = len(path.read_text().splitlines())
    path.write_text(path.read_text() + source)
    words = re.sub(r"line (\d+)", lambda match: f"line {int(match[1]) + lines}", words)
    shown = []
    (text,) = check_answer("pipelines", path, shown.append, 20.0 if "memory" in case else 0.5)
    assert re.search(words, text)
    assert sum(map(len, shown)) < 30_000
    assert until(lambda: not running_in(int((tmp_path / "group").read_text())), 5)


def running_in(group):
    """The processes of this group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            found += [path.parent.name] if int(its_group) == group and state not in "ZX" else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_check_that_is_stopped_leaves_no_process(number, here, capsys):
    outcome(capsys, "lesson", "start", "3")
    source = "import os\nprint(os.getpid(), flush=True)\nwhile True: pass\n"
    (here / PIPELINES / EXERCISE).write_text(source)
    command = [sys.executable, "-m", "ringlet", "lesson", "check", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline().removeprefix("| "))
        process.send_signal(number)
        code = process.wait(10)
    assert code == (130 if number == signal.SIGINT else -number)
    assert until(lambda: not alive(child), 5)
