"""Commands in this process, as people call them."""

import pytest

from ringlet.launcher.cli import main


def outcome(capture, *arguments):
    """Exit code, stdout and stderr of `ringlet arguments...`, with the fixture capsys or capfd."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return (ended.value.code or 0, *capture.readouterr())
