"""Commands of click, whose options are dataclasses (launcher/options.py), and their help."""

import inspect
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import click
from click.core import ParameterSource

from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.units import parse_bytes, parse_duration, parse_seconds

METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}

UNITS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "bytes": ("SIZE", parse_bytes),
    "seconds": ("TIME", parse_seconds),
    "duration": ("TIME", parse_duration),
}
"""How options with a unit are shown and read."""

SETTINGS = {
    "run": {"allow_interspersed_args": False, "ignore_unknown_options": True},
    "submit": {"allow_interspersed_args": False},
}
"""Of commands whose last words belong to another program: click's settings for their context."""


@dataclass(frozen=True)
class Argument:
    """Says of a command's parameter, as Annotated does, that it is a word of the command line: how
    it is shown, and what it is."""

    metavar: str
    help: str


def with_options(
    given: type[Any] | None = None, **groups: type[Any]
) -> Callable[[Callable[..., None]], "Command"]:
    """Make a command of a function, with an option for each field of these dataclasses.

    The function gets one instance of each of the `groups`, by name. Of the dataclass `given` it
    gets a dict of the options, as `given`: None stands for those not on the command line. Its
    hidden fields are no options. Its own parameters are annotated with an Argument, or the
    `context`.
    """

    def decorate(function: Callable[..., None]) -> Command:
        def run(**values: Any) -> None:
            def taken(group: type[Any]) -> dict[str, Any]:
                present = [each for each in fields(group) if each.name in values]
                return {each.name: _read(each, values.pop(each.name)) for each in present}

            for name, group in groups.items():
                values[name] = group(**taken(group))
            if given is not None:
                values["given"] = taken(given)
            if "context" in own:
                values["context"] = click.get_current_context(silent=True)
            function(**values)

        own = inspect.signature(function).parameters
        parameters: list[click.Parameter] = [
            _Argument(name, *get_args(each.annotation))
            for name, each in own.items()
            if get_origin(each.annotation) is Annotated
        ]
        for group in (*groups.values(), given):
            for each in () if group is None else fields(group):
                if group is given and each.metadata.get("hidden"):
                    continue
                heading = each.metadata.get("heading") or getattr(group, "HEADING", None)
                parameters.append(_option(each, heading, overrides=group is given))
        name = function.__name__
        return Command(name, SETTINGS.get(name), run, parameters, inspect.getdoc(function))

    return decorate


class _Argument(click.Argument):
    """An argument with a line of help."""

    def __init__(self, name: str, kind: Any, words: Argument) -> None:
        several = get_origin(kind) is list
        super().__init__(
            [name], type=_type(*get_args(kind)) if several else _type(kind), metavar=words.metavar,
            nargs=-1 if several else 1, required=True,
            callback=lambda context, parameter, value: list(value) if several else value,
        )  # fmt: skip
        self.record = words.metavar, words.help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.record


class _Option(click.Option):
    """An option that is shown under a heading."""

    heading: str | None


def _long_name(each: Field[Any]) -> str:
    """As in --batch-size."""
    return (each.metadata.get("names") or (f"--{each.name.replace('_', '-')}",))[-1]


def _read(each: Field[Any], value: Any) -> Any:
    """The value of an option with a unit as a number, within its bounds; any other as it is."""
    unit, least = each.metadata.get("unit"), each.metadata.get("least")
    if not unit or not isinstance(value, str):
        return value
    number = UNITS[unit][1](value, _long_name(each))
    if least is not None and number < least:
        raise UserError(f"{_long_name(each)} is {value}; it must be at least {least}")
    return number


def _type(kind: Any, least: float | None = None, most: float | None = None) -> Any:
    """What click calls a type, or a type with bounds."""
    if kind is Path:
        return click.Path(path_type=Path)
    if least is None and most is None:
        return kind
    bounded: Any = click.IntRange if kind is int else click.FloatRange
    return bounded(least, most)


def _option(each: Field[Any], heading: str | None, overrides: bool) -> _Option:
    """The field as an option of click; with `overrides` one that is None unless given."""
    facts, default, kind = each.metadata, each.default, each.type
    names, text, shown = facts.get("names", ()), facts["help"], facts.get("shown")
    kind = next(known for known in (bool, *METAVARS) if kind in (known, known | None))
    flag = kind is bool
    if not names:
        names = (_long_name(each),)
        if flag and (overrides or default):
            names = (f"{names[0]}/--no-{names[0].removeprefix('--')}",)
    if overrides:
        words: dict[Any, str] = {False: "no", True: "yes", "": "none"}
        usual = words.get(default, default) if isinstance(default, bool | str) else default
        default, shown = None, str(usual)
    metavar, least = facts.get("metavar"), facts.get("least")
    if unit := facts.get("unit"):
        kind, metavar, least = str, UNITS[unit][0], None
        if default not in (None, MISSING):
            default = str(default).removesuffix(".0") + ("s" if unit == "seconds" else "")
    if shown is not None:
        text = f"{text}  [default: {shown}]"
    required = default is MISSING
    made = _Option(
        [each.name, *names],
        default=None if required else default,
        required=required,
        type=None if flag else _type(kind, least, facts.get("most")),
        is_flag=flag,
        help=text,
        metavar=None if flag else metavar or METAVARS[kind],
        hidden=facts.get("hidden", False),
        show_default=not (shown is not None or default is None or default is False or required),
    )
    made.heading = heading
    return made


def refuse(context: click.Context | None, names: Iterable[str], why: str) -> None:
    """Raise UserError if one of these options was given to the running command: it would do
    nothing."""
    for option in [] if context is None else _given(context):
        if option.name in names:
            raise UserError(f"{option.opts[-1]} would do nothing: {why}")


def words_given(context: click.Context, without: Iterable[str] = ()) -> list[str]:
    """The options of the running command that were given, as words for another command line,
    `without` those of these names."""
    words = []
    for option in _given(context):
        if option.name in without:
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[-1])
        elif option.param_type_name == "option":
            words.append(f"{option.opts[-1]}={value}")
    return words


def _given(context: click.Context) -> list[click.Parameter]:
    """What was given to the running command, in the order in which it takes it."""
    return [
        each
        for each in context.command.params
        if context.get_parameter_source(each.name or "") is ParameterSource.COMMANDLINE
    ]


def similar_options(context: Any, name: str) -> list[str]:
    """The options of the running command that may be meant by a name that none has."""
    # Imported here, as this is seldom needed.
    from ringlet.runtime.training.similar import similar

    params = [each for each in context.command.params if each.param_type_name == "option"]
    return similar(name, {each.opts[-1]: each.help or "" for each in params})


HEADINGS = (
    "Arguments", "Options", "Model", "Data", "Parallelism", "Optimization", "Output", "Workers",
    "Hosts", "Ray", "Slurm",
)  # fmt: skip
"""The headings of a command's help, in this order."""


class Group(click.Group):
    """Commands in the order in which they were given."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # for click an error, with code 1
            sys.exit(ExitCode.SIGNAL + signal.SIGINT)


class Command(click.Command):
    """Shows options under headings. For an option that there is not, it names those that may be
    meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        empty = {word for word, value in pairwise(args) if not value}
        empty |= {word[:-1] for word in args if word.endswith("=")}
        try:
            rest = super().parse_args(ctx, args)
        except Exception as error:
            if hasattr(error, "possibilities") and hasattr(error, "option_name"):
                error.possibilities = similar_options(ctx, error.option_name)
            raise
        for each in self.params:
            # A variable that is not set, which is not meant to be the current folder.
            if (names := empty.intersection(each.opts)) and ctx.params[each.name or ""] == Path():
                raise UserError(f"{min(names)} is empty; the current folder is .")
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        arguments = [each for each in self.get_params(ctx) if isinstance(each, _Argument)]
        return ["[OPTIONS]", *(each.record[0] for each in arguments)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
        for parameter in self.get_params(ctx):
            heading = getattr(parameter, "heading", None) or "Options"
            if isinstance(parameter, _Argument):
                heading = "Arguments"
            if (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
