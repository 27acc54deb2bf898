"""`ringlet run` as people start it: a process of its own, with nothing left behind at the end."""

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import DEADLINE_S, alive, until

RINGLET = [sys.executable, "-P", "-c", "from ringlet.launcher.cli import main; main()"]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture(autouse=True)
def variables_as_before():
    """Commands that run in this process set variables for those they start, not for other tests."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


class Launch:
    """One `ringlet run`: the process, the folder it runs in, and how it ended."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        environment: dict[str, str],
        before: Callable[[], object] | None,
    ) -> None:
        self.folder, self._temporary = folder, Path(environment["TMPDIR"])
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            preexec_fn=before,
        )

    def end(self) -> tuple[int, str, str]:
        """Wait for the end: exit code, stdout, stderr."""
        stdout, stderr = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, stdout, stderr

    def number(self, name: str) -> int:
        """The number (mostly a pid) that the script writes into the file, once it is there."""
        path = self.folder / name

        def written() -> bool:
            return path.exists() and path.read_text().endswith("\n")

        until(lambda: written() or self.process.poll() is not None)
        assert written(), self.end() if self.process.poll() is not None else f"no {name}"
        return int(path.read_text())

    def ended_within(self, seconds: float) -> bool:
        """Whether the launcher ends in time."""
        return until(lambda: self.process.poll() is not None, seconds)

    def temporary_files(self, pattern: str) -> list[Path]:
        """Such files of launchers, once there are some."""
        return until(lambda: list(self._temporary.glob(pattern)))

    def gone(self, pids: list[int], seconds: float = 2.0) -> bool:
        """Whether all the processes end in time."""
        return until(lambda: not any(alive(pid) for pid in pids), seconds)


def leaked_segments() -> set[str]:
    """Shared segments of ringlets that no process has mapped: those of running tests are fine."""
    names = {path.name for path in Path("/dev/shm").glob("ringlet-*")}
    for maps in Path("/proc").glob("[0-9]*/maps") if names else ():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            text = maps.read_text()
            names = {name for name in names if name not in text}
    return names


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """`launch(text, *arguments, options=("-n", "2"), variables={...})` starts the text as script.
    `before()` is called in the launcher's process, before its program; `around` are words to put in
    front of its command.

    At the end of the test the launchers must have left neither files nor shared memory.
    """
    folder, temporary = tmp_path / "work", tmp_path / "t"
    folder.mkdir()
    temporary.mkdir()
    before, started = leaked_segments(), []

    def start(
        text: str | None,
        *arguments: str,
        options: tuple[str, ...] = ("-n", "2"),
        program: tuple[str, ...] = ("script.py",),
        variables: dict[str, str] | None = None,
        before: Callable[[], object] | None = None,
        around: tuple[str, ...] = (),
    ) -> Launch:
        if text is not None:
            (folder / program[-1]).with_suffix(".py").write_text(textwrap.dedent(text))
        environment = {key: value for key, value in os.environ.items() if key not in THREADS}
        environment |= {"TMPDIR": str(temporary), **(variables or {})}
        command = [*around, *RINGLET, "run", *options, *program, *arguments]
        started.append(Launch(command, folder, environment, before))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()
    assert until(lambda: list(temporary.iterdir()) == [], 3), list(temporary.iterdir())
    assert until(lambda: leaked_segments() <= before, 3), leaked_segments() - before
