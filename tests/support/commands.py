"""Commands in this process, as people call them, and stand-ins for those of others."""

import os

import pytest

from ringlet.launcher.cli import main


def outcome(capture, *arguments):
    """Exit code, stdout and stderr of `ringlet arguments...`, with the fixture capsys or capfd."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return (ended.value.code or 0, *capture.readouterr())


def stand_in(folder, monkeypatch, **commands):
    """Programs of these names, as shell scripts, are the first that are found."""
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
