"""Options as data: a dataclass whose fields also say how the command line shows them."""

from dataclasses import MISSING, field
from typing import Any


def option(
    default: Any,
    help: str,
    *names: str,
    heading: str | None = None,
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
    shown: str | None = None,
    hidden: bool = False,
    unit: str = "",
) -> Any:
    """A field that is an option of a command; `...` as default makes the option required.

    `names` replace the name made from the field's, `heading` the dataclass's own HEADING.
    `least` and `most` bound a number, and `shown` is shown as the default instead of the value.
    With the `unit` "bytes" or "seconds" the number may be written as in 64MiB or 5min.
    """
    facts: dict[str, Any] = {"help": help, "names": names, "heading": heading, "hidden": hidden}
    facts |= {"metavar": metavar, "least": least, "most": most, "shown": shown, "unit": unit}
    return field(default=MISSING if default is ... else default, metadata=facts)
