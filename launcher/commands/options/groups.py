"""Groups of options that several commands have: a dataclass, with an option for each field."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, get_type_hints

import typer


def with_groups(**groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these dataclasses; it gets each as an argument of the name."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: list(_options(group)) for name, group in groups.items()}

        def with_options(**given: Any) -> None:
            for name, group in groups.items():
                given[name] = group(**{each.name: given.pop(each.name) for each in options[name]})
            command(**given)

        signature = inspect.signature(command)
        own = [each for each in signature.parameters.values() if each.name not in groups]
        more = [each for each in own if each.kind == inspect.Parameter.VAR_KEYWORD]
        shown = [each for each in own if each not in more]
        shown += [each for group in options.values() for each in group]
        changed: Any = with_options
        changed.__name__, changed.__doc__ = command.__name__, command.__doc__
        changed.__signature__ = signature.replace(parameters=[*shown, *more])
        changed.__annotations__ = {each.name: each.annotation for each in shown}
        return with_options

    return give


def _options(group: type[Any]) -> Iterable[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for each in fields(group):
        kind = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(each.name, kind, default=each.default, annotation=hints[each.name])


def words_given(context: typer.Context, without: Iterable[str | type[Any]] = ()) -> list[str]:
    """The options of the running command that were given, as words for another command line; but
    none of these names and groups."""
    left_out = set()
    for each in without:
        left_out |= {each} if isinstance(each, str) else {field.name for field in fields(each)}
    words = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in left_out or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[-1])
        elif option.param_type_name == "option":
            words.append(f"{option.opts[-1]}={value}")
    return words
