"""Dataclasses of options (launcher/options.py) as options of typer commands, and their help."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from ringlet.launcher.errors import UserError
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


def with_options(
    given: type[Any] | None = None, **groups: type[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of these dataclasses.

    The command gets one instance of each of the `groups`, by name. Of the dataclass `given` it gets
    a dict of the options, as `given`: None stands for those not on the command line. Its hidden
    fields are no options.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_instances(**values: Any) -> None:
            for name, group in groups.items():
                present = [each for each in fields(group) if each.name in values]
                values[name] = group(**{e.name: _read(e, values.pop(e.name)) for e in present})
            if given is not None:
                present = [each for each in fields(given) if each.name in values]
                values["given"] = {e.name: _read(e, values.pop(e.name)) for e in present}
            command(**values)

        taken = {*groups, "given"}
        signature = inspect.signature(command)
        own = [each for each in signature.parameters.values() if each.name not in taken]
        parameters = [each for each in own if each.kind != each.VAR_KEYWORD]  # more groups
        for group in (*groups.values(), given):
            for each in () if group is None else fields(group):
                if group is given and each.metadata.get("hidden"):
                    continue
                heading = each.metadata.get("heading") or getattr(group, "HEADING", None)
                parameters.append(_parameter(each, heading, overrides=group is given))
        changed: Any = with_instances
        changed.__name__, changed.__doc__ = command.__name__, command.__doc__
        changed.__signature__ = signature.replace(parameters=parameters)
        changed.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_instances

    return decorate


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


def _parameter(each: Field[Any], heading: str | None, overrides: bool) -> inspect.Parameter:
    """The field as a typer option; with `overrides` one that is None unless given."""
    facts, default, kind = each.metadata, each.default, each.type
    names, text, shown = facts.get("names", ()), facts["help"], facts.get("shown")
    if overrides:
        words: dict[Any, str] = {False: "no", True: "yes", "": "none"}
        usual = words.get(default, default) if isinstance(default, bool | str) else default
        default, kind, shown = None, type(default) | None, usual
    elif kind is bool and not default and not names:
        names = (_long_name(each),)
    metavar, least = facts.get("metavar"), facts.get("least")
    if unit := facts.get("unit"):
        kind = str | None if default is None else str
        metavar, least = UNITS[unit][0], None
        if default is not None:
            default = str(default).removesuffix(".0") + ("s" if unit == "seconds" else "")
    if metavar is None and kind not in (bool, bool | None):
        metavar = next(text for known, text in METAVARS.items() if kind in (known, known | None))
    if shown is not None:
        text = f"{text}  [default: {shown}]"
    hide = shown is not None or default is None or default is False
    option = typer.Option(
        ... if default is MISSING else default,
        *names,
        help=text,
        metavar=metavar,
        min=least,
        max=facts.get("most"),
        hidden=facts.get("hidden", False),
        show_default=not hide,
        rich_help_panel=heading,
    )
    kind_only = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(each.name, kind_only, default=option, annotation=kind)


def refuse(context: typer.Context | None, names: Iterable[str], why: str) -> None:
    """Raise UserError if one of these options was given to the running command: it would do
    nothing."""
    for option in context.command.params if context else ():
        source = context.get_parameter_source(option.name or "") if context else None
        if option.name in names and source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{option.opts[-1]} would do nothing: {why}")


def words_given(context: typer.Context, without: Iterable[str] = ()) -> list[str]:
    """The options of the running command that were given, as words for another command line,
    `without` those of these names."""
    words = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in without or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[-1])
        elif option.param_type_name == "option":
            words.append(f"{option.opts[-1]}={value}")
    return words


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


class Command(TyperCommand):
    """Shows options under headings, as rich's panels do, but without rich, which starts slowly.
    For an option that there is not, it names those that may be meant."""

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

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(each.metavar) for each in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[Any]] = {heading: [] for heading in HEADINGS}
        for parameter in self.get_params(ctx):
            record: Any = parameter.get_help_record(ctx)
            heading = getattr(parameter, "rich_help_panel", None) or "Options"
            if parameter.param_type_name == "argument":
                heading, record = "Arguments", (parameter.metavar, record[1])
            if record is not None:
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
