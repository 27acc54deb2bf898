"""The course: its lessons, and the folder in which a student does one."""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ringlet.launcher.errors import UserError, make_folder, user_errors
from ringlet.launcher.lessons.notebook import notebook
from ringlet.nn.files import parse_object, read_text, replacing

HERE = Path(__file__).parent

EXERCISE, TEXT, NOTEBOOK = "exercise.py", "README.md", "lesson.ipynb"
PROGRESS = ".progress.json"
"""What is in a student's folder."""

NOTE = re.compile(r"^<!--.*?-->\n+", re.DOTALL | re.MULTILINE)
"""Of a text, for those who test it."""

PARENTS = re.compile(r"^(\.\./)+")

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Lesson:
    """One lesson; its files are in the folder of this name, beside this file."""

    number: int
    folder: str
    title: str
    line: str

    @property
    def name(self) -> str:
        """Of a student's folder: lesson-05-ring_all_reduce."""
        return f"lesson-{self.number:02d}-{self.folder}"

    @property
    def hints(self) -> tuple[str, ...]:
        """From the first nudge to nearly the answer."""
        hints: tuple[str, ...] = import_module(f"{__package__}.{self.folder}.check").HINTS
        return hints

    def place(self, root: Path) -> Path:
        """The student's folder in `root`, which may itself be the folder of a lesson."""
        names = {lesson.name for lesson in LESSONS}
        return (root.resolve().parent if root.resolve().name in names else root) / self.name


LESSONS = (
    Lesson(1, "why_communication", "Why communication", "what ranks must tell each other"),
    Lesson(2, "data_and_model_parallelism", "Data and model parallelism", "cut batch or model"),
    Lesson(3, "pipelines", "Pipelines", "stages, micro-batches, the bubble; write 1F1B"),
    Lesson(4, "patterns_of_communication", "Patterns of communication", "collectives as data"),
    Lesson(5, "ring_all_reduce", "Ring all-reduce", "the least bytes that a sum can do with"),
    Lesson(6, "trees", "Bidirectional rings, pipelined chains, trees", "fewer rounds, more ports"),
    Lesson(7, "gradient_accumulation", "Gradient accumulation", "large batches, sent in time"),
    Lesson(8, "automatic_parallelism", "Automatic parallelism", "which mesh is best"),
    Lesson(9, "tensor_parallelism", "Tensor parallelism", "a layer on several ranks"),
    Lesson(10, "recomputation", "Recomputation, compression, scheduling", "memory, bytes, order"),
    Lesson(11, "attention", "Attention", "in blocks, and round a ring of ranks"),
    Lesson(12, "updates", "Updates", "each rank updates its part: ZeRO"),
)


def lesson_of(text: str) -> Lesson:
    """The lesson of this number, or of this name. Raises UserError."""
    for lesson in LESSONS:
        if text in (str(lesson.number), f"{lesson.number:02d}", lesson.folder, lesson.name):
            return lesson
    raise UserError(
        f"there is no lesson {text!r}: they are 1 to {len(LESSONS)}; ringlet lesson lists them"
    )


def start(lesson: Lesson, root: Path) -> Path:
    """Write the student's folder, with the text and the exercise; returns it. Raises UserError if
    it cannot be written, or has an exercise already."""
    folder = lesson.place(root)
    exercise = folder / EXERCISE
    if os.path.lexists(exercise):
        raise UserError(f"{exercise} is there already; to begin again, move it away")
    make_folder(folder, "--folder")
    source = HERE / lesson.folder
    text = read_text(source / "lesson.md")
    prose = partial(for_student, source=source)
    with user_errors(os_error=f"cannot write into {folder}"):
        _write(folder / TEXT, prose(text))
        _write(folder / NOTEBOOK, notebook(text, prose))
        _write(exercise, read_text(source / EXERCISE))
    return folder


def for_student(text: str, source: Path) -> str:
    """A lesson's text whose links lead to the files of this installation. What it lacks, as an
    installed package lacks the documentation, is named with its place in the repository."""

    def moved(match: re.Match[str]) -> str:
        image, words, link = match.groups()
        path, _, place = link.partition("#")
        if "://" in link or not path:
            return match[0]
        target = (source / path).resolve()
        if target.exists():
            return f"{image}[{words}](<{target}{'#' + place if place else ''}>)"
        missing = PARENTS.sub("", path)
        return f"*{words}* (picture: {missing})" if image else f"{words} ({missing})"

    return LINK.sub(moved, NOTE.sub("", text))


def exercise_of(lesson: Lesson, root: Path) -> Path:
    """The student's file; raises UserError if it is not there."""
    path = lesson.place(root) / EXERCISE
    if not path.exists():
        raise UserError(f"there is no {path}: ringlet lesson start {lesson.number} writes it")
    return path


def progress(lesson: Lesson, root: Path) -> dict[str, Any]:
    """What is known of the student's work: whether it is `right`, how many `hints` were given.
    Empty before the start, and where nothing can be read."""
    folder = lesson.place(root)
    with suppress(OSError, ValueError):
        return parse_object(read_text(folder / PROGRESS))
    with suppress(OSError):
        return {"right": False} if (folder / EXERCISE).exists() else {}
    return {}


def note(lesson: Lesson, root: Path, **facts: Any) -> str:
    """Keep these facts as the lesson's progress; returns why that failed, or nothing."""
    path = lesson.place(root) / PROGRESS
    try:
        _write(path, json.dumps({**progress(lesson, root), **facts}) + "\n")
    except OSError as error:
        return f"this is not remembered: {path}: {error.strerror}"
    return ""


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
