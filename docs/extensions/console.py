"""Console blocks: commands after `$ `, and what they print, in which nothing is a prompt."""

from typing import Any

from pygments.lexer import RegexLexer, bygroups, using
from pygments.lexers.shell import BashLexer
from pygments.token import Generic
from sphinx.application import Sphinx


class Console(RegexLexer):
    """Pygments' own takes an output's `# ` or `> ` for a prompt, too."""

    name = "console"
    tokens = {  # noqa: RUF012
        "root": [
            (r"^(\$ )((?:.*\\\n)*.*\n?)", bygroups(Generic.Prompt, using(BashLexer))),
            (r".+\n?|\n", Generic.Output),
        ]
    }


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_lexer("console", Console)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
