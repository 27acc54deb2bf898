"""`ringlet lesson ...`: do a lesson, and be told what is wrong with an answer."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click

from ringlet.launcher.commands.options import Argument, Group, with_options
from ringlet.launcher.commands.pasted import command
from ringlet.launcher.errors import ExitCode
from ringlet.launcher.lessons.answers import check_answer
from ringlet.launcher.lessons.course import (
    EXERCISE,
    LESSONS,
    NOTEBOOK,
    TEXT,
    Lesson,
    exercise_of,
    lesson_of,
    note,
    progress,
    start,
)
from ringlet.launcher.options import option

Number = Annotated[str, Argument("LESSON", "Its number, or its name.")]


@dataclass(frozen=True)
class LessonOptions:
    """Where the student works."""

    folder: Path = option(Path(), "Folder that holds the folders of lessons.", metavar="FOLDER")

    def command(self, verb: str, lesson: Lesson) -> str:
        """A command about this lesson, to be pasted."""
        place: list[str | Path] = [] if self.folder == Path() else ["--folder", self.folder]
        return command("lesson", verb, str(lesson.number), *place)


@dataclass(frozen=True)
class HintOptions(LessonOptions):
    """Which hints are shown."""

    all: bool = option(False, "Show all hints.", "--all")


@with_options(options=LessonOptions)
def list_(options: LessonOptions) -> None:
    """List the lessons, and how far you are."""
    root = options.folder
    known = {lesson: progress(lesson, root) for lesson in LESSONS}
    for lesson, facts in known.items():
        state = ("done" if facts.get("right") else "started") if facts else ""
        click.echo(f"{lesson.number:>3}  {state:<9}{lesson.title}: {lesson.line}")
    left = [lesson for lesson, facts in known.items() if not facts.get("right")]
    begun = [lesson for lesson in left if known[lesson]]
    for lesson in (begun or left)[:1]:
        click.echo(f"\nNext: {options.command('check' if begun else 'start', lesson)}")


@with_options(options=LessonOptions)
def start_(number: Number, *, options: LessonOptions) -> None:
    """Write a folder with a lesson and its exercise.

    README.md is the lesson, lesson.ipynb the same as a notebook, exercise.py what you complete. An
    exercise that is there is never overwritten.
    """
    lesson = lesson_of(number)
    folder = start(lesson, options.folder)
    text = f"{folder / TEXT} (or {NOTEBOOK}, in Jupyter)"
    click.echo(f"Lesson {lesson.number}, {lesson.title}: read {text},")
    click.echo(f"complete {folder / EXERCISE}, then: {options.command('check', lesson)}")


@with_options(options=LessonOptions)
def check(number: Number, *, options: LessonOptions) -> None:
    """Say what is wrong with your answer, or that it is right.

    The exit code is 0 if it is right, and 1 if not.
    """
    lesson = lesson_of(number)
    path = exercise_of(lesson, options.folder)
    wrong = check_answer(lesson.folder, path, lambda line: click.echo(f"| {line}"))
    for text in wrong:
        click.echo(f"- {text}")
    if not wrong:
        click.echo(f"Lesson {lesson.number}, {lesson.title}: this is right.")
        after = [other for other in LESSONS if other.number == lesson.number + 1]
        for other in after:
            click.echo(f"Next, {other.title}: {options.command('start', other)}")
    else:
        click.echo(f"A hint: {options.command('hint', lesson)}")
    _remember(lesson, options, right=not wrong)
    sys.exit(ExitCode.FAILED if wrong else ExitCode.OK)


@with_options(options=HintOptions)
def hint(number: Number, *, options: HintOptions) -> None:
    """Show the next hint; each call shows one more."""
    lesson = lesson_of(number)
    hints, given = lesson.hints, len(lesson.hints)
    if not options.all:
        exercise_of(lesson, options.folder)
        before = progress(lesson, options.folder).get("hints")
        given = min((max(0, before) if type(before) is int else 0) + 1, len(hints))
        _remember(lesson, options, hints=given)
    for place in range(0 if options.all else given - 1, given):
        click.echo(f"Hint {place + 1} of {len(hints)}: {hints[place]}")


def _remember(lesson: Lesson, options: LessonOptions, **facts: Any) -> None:
    if problem := note(lesson, options.folder, **facts):
        click.echo(problem, err=True)


class ListByDefault(Group):
    """A group that without a command lists the lessons."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


lesson = ListByDefault(
    "lesson",
    help="Learn in twelve lessons, with exercises that are checked.\n\n`ringlet lesson` lists "
    "them, and says how far you are. A wrong answer is told in words what is wrong with it.",
)
for _name, _command in {"list": list_, "start": start_, "check": check, "hint": hint}.items():
    lesson.add_command(_command, _name)
