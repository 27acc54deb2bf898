"""The code blocks of a page, run as its readers run them, and what they print beside what is shown.

    def test_what_the_page_prints(tmp_path, capfd):
        assert failures(PAGE, tmp_path, capfd) == []

All blocks of a page run in one folder, from the first to the last:

- `console`: commands after `$ `, and what each prints below it;
- `sh`: commands whose output is not shown; they must succeed;
- `python`: one program, in as many parts as there are blocks, with what a part prints in a `text`
  block right after it. A block that begins with a comment like `# average.py` is that file. One
  whose fence says `python ranks=4`, or that begins with `%%ranks 4` as in a notebook, runs on
  four ranks.

In what is shown, `...` stands for anything. What the planner and the provers print must be the
same to the letter; of all else, times, rates, hashes, process ids and ports are left out, and
lines of ranks may come in any order. Comments before a block say more, and are not seen by
readers:

    <!-- slow -->                   it trains, or takes longer than a second
    <!-- not run: needs a GPU -->   why it cannot run here; REASONS has them all
    <!-- with: --steps 2 -->        options that its `ringlet train` has in the tests; {n} is the
                                    number of the command in the block
    <!-- exit: 1 -->                the code with which its commands end
    <!-- given                      Python that runs before: what the block takes for granted
    model = GPT(config)
    -->
"""

import contextlib
import difflib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from ringlet.comm import shutdown
from ringlet.launcher.cli import main
from ringlet.launcher.notebook import run_on_ranks

ROOT = Path(__file__).resolve().parents[2]

REASONS = (
    "needs a GPU",
    "needs several hosts",
    "needs a cluster",
    "needs PyTorch",
    "needs another program beside it",
    "installs",
    "is run by .ci/run",
)
"""Why a block does not run in the tests."""

NOTES = ("slow", "not run", "with", "exit", "given")

OF_TEXT, DRAWN_BY = ("compression.svg", "experts.svg"), (3, 11)
"""Pictures of the built-in text, which is each Python's own, and the one that they are of."""

DEADLINE_S = 240.0
LINES = 60  # of what differs

HERE = {"explain", "simulate", "lesson"}
"""Commands that run in this process, since they start no other one for long."""

EXACT = {"explain", "plan", "simulate"}
"""Commands that print the same wherever they run: on machines that are described."""

UNITS = r"ns|us|ms|s|min|h|[kKMGT]?i?B/s|[MG]bit/s|[MGT]FLOP/s|tokens/s"

VOLATILE = [
    (r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", "HASH"),
    (rf"-?\d[\d,]*(\.\d+)? ?({UNITS})\b", "TIME"),
    (r"\b(pid|process) \d+", r"\1 PID"),
    (r"\b(\d+\.\d+\.\d+\.\d+|localhost):\d+", r"\1:PORT"),
    (r"\b\d+:\d\d:\d\d\b", "TIME"),
    (r"[ \t]+", " "),
    (r" +$", ""),
]

COMMENT = re.compile(r"<!-- *(.*?)\s*-->", re.DOTALL)
FENCE = re.compile(r"(?P<mark>```+)(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=mark) *$", re.DOTALL | re.M)
RANK = re.compile(r"(?:\S+:|rank )?(\d+): ")


@dataclass
class Block:
    """A block of code: its language and first line, what its notes say, and what it prints."""

    language: str
    line: int
    text: str
    notes: dict[str, str] = field(default_factory=dict)
    shown: str | None = None
    info: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        return self.language in ("console", "sh", "python") and "not run" not in self.notes


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page of Markdown."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    notes: dict[str, str] = {}
    end = 0
    for part in re.finditer(rf"^(?:{COMMENT.pattern}|{FENCE.pattern})", text, re.DOTALL | re.M):
        if text[end : part.start()].strip():
            notes = {}  # other text lies between
        between, end = text[end : part.start()], part.end()
        if part["mark"] is None:
            for name in NOTES:
                if part[1] == name or part[1].startswith((f"{name}:", f"{name}\n")):
                    notes[name] = part[1][len(name) + 1 :].strip()
            continue
        language, *info = part["info"].split() or [""]
        if language == "text" and found and found[-1].language == "python" and not between.strip():
            found[-1].shown = part["text"]
        line = text.count("\n", 0, part.start()) + 1
        found.append(Block(language, line, part["text"], notes, None, tuple(info)))
        notes = {}
    return found


def has_slow(page: Path) -> bool:
    """Whether some of a page's blocks run in the slow tests only."""
    return any("slow" in block.notes and block.runs for block in blocks(page))


def has_quick(page: Path) -> bool:
    """Whether some of a page's blocks run in the ordinary tests."""
    return any("slow" not in block.notes and block.runs for block in blocks(page))


def failures(page: Path, folder: Path, capture, slow: bool = False) -> list[str]:
    """What is wrong with the blocks of a page, run in an empty folder, with the fixture capfd;
    also those that are `slow`."""
    return list(_Session(page, folder, capture).failures(slow))


def differences(shown: str, printed: str, exact: bool) -> str:
    """The lines that differ between what a page shows and what was printed; "" for none."""
    if not exact:
        shown, printed = _steady(shown), _steady(printed)
    shown, printed = shown.strip("\n"), printed.strip("\n")
    shown = re.sub(r"^ *\.\.\.$", "...", shown, flags=re.M)
    pattern = re.escape(shown).replace(re.escape("..."), r"(?:.|\n)*?")
    if re.fullmatch(pattern, printed):
        return ""
    lines = difflib.unified_diff(shown.splitlines(), printed.splitlines(), "page", "printed", n=1)
    return "\n".join(line.rstrip("\n") for line in islice(lines, LINES))


def _steady(text: str) -> str:
    """Without what differs from run to run, and lines of ranks in order."""
    for pattern, instead in VOLATILE:
        text = re.sub(pattern, instead, text, flags=re.M)
    lines = text.splitlines()
    first = 0
    while first < len(lines):
        last = first
        while last < len(lines) and RANK.match(lines[last]):
            last += 1
        lines[first:last] = sorted(lines[first:last], key=lambda line: int(RANK.match(line)[1]))
        first = max(last, first + 1)
    return "\n".join(lines)


def commands(text: str, prompt: str = "") -> list[tuple[str, str]]:
    """The commands of a block, and what is shown below each."""
    found: list[tuple[str, str]] = []
    goes_on = False
    for line in text.splitlines():
        if goes_on:
            found[-1] = (f"{found[-1][0]}\n{line}", "")
        elif line.startswith(prompt) and (prompt or line.strip()):
            found.append((line.removeprefix(prompt), ""))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
        goes_on = (goes_on or line.startswith(prompt)) and line.endswith("\\")
    return [each for each in found if not each[0].lstrip().startswith("#")]


class _Session:
    """A reader who goes through a page in a folder."""

    def __init__(self, page: Path, folder: Path, capture) -> None:
        self.page, self.folder, self.capture = page, folder, capture
        self.place = os.path.relpath(page, ROOT)
        self.names = {"__name__": "__main__"}
        for name in ("examples", "benchmarks", "tests"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "docs/pictures").mkdir(parents=True)

    def failures(self, slow):
        try:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            own = patch.dict(os.environ, PATH=path, NO_COLOR="1")
            with contextlib.chdir(self.folder), own:
                for block in blocks(self.page):
                    reason = block.notes.get("not run", REASONS[0])
                    if reason not in REASONS:
                        yield f"{self.place}:{block.line}: {reason!r} is none of the REASONS"
                    if block.runs and (slow or "slow" not in block.notes):
                        yield from self._block(block)
                yield from self._pictures()
        finally:
            shutdown()

    def _block(self, block):
        given = block.notes.get("given", "")
        if given:
            yield from self._python(block, given, None)
        if block.language == "python":
            text, magic = re.subn(r"\A%%ranks \d+(?=\n)", "", block.text)
            said = block.text.partition("\n")[0] if magic else " ".join(block.info)
            ranks = re.match(r"(?:%%ranks |ranks=)(\d+)", said)
            yield from self._python(block, text, block.shown, int(ranks[1]) if ranks else 0)
            return
        prompt = "$ " if block.language == "console" else ""
        for number, (command, shown) in enumerate(commands(block.text, prompt), 1):
            added = block.notes.get("with", "").format(n=number)
            code, printed = self._command(command, added)
            wrong = ""
            if code != int(block.notes.get("exit", 0)):
                wrong = f"ended with code {code}:\n{printed}"
            elif block.language == "console":
                name, *words = command.split()
                wrong = differences(shown, printed, name == "ringlet" and words[0] in EXACT)
            if wrong:
                yield f"{self.place}:{block.line}: {command}\n{wrong}"

    def _python(self, block, text, shown, ranks=0):
        file = re.match(r"# ([\w/]+\.py)\n", text)
        if file:
            Path(file[1]).write_text(text)
            return
        printed = io.StringIO()
        try:
            source = "\n" * block.line + text  # so that a traceback has the page's lines
            with contextlib.redirect_stdout(printed):
                if ranks:
                    run_on_ranks(source, ranks, self.names)
                else:
                    exec(compile(source, str(self.page), "exec"), self.names)
        except BaseException:
            yield f"{self.place}:{block.line}:\n{traceback.format_exc()}"
            return
        if wrong := differences(shown or "", printed.getvalue(), exact=False):
            yield f"{self.place}:{block.line}:\n{wrong}"

    def _command(self, command, added):
        """Its code, and all that it prints."""
        words = shlex.split(command.replace("\\\n", ""), comments=True)
        if words[:1] == ["ringlet"] and words[1] in HERE and not re.search(r"[|;&<>$*]", command):
            self.capture.readouterr()
            try:
                main(words[1:])
                code = 0
            except SystemExit as ended:
                code = ended.code or 0
            return code, "".join(self.capture.readouterr())
        for option in re.findall(r"--\S+", added):
            command = re.sub(rf" {option}[ =]\S+", "", command)
        command = re.sub(r"\bringlet train\b", rf"\g<0> {added}".rstrip(), command)
        try:
            ended = subprocess.run(
                ["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            return 124, f"it takes longer than {DEADLINE_S:.0f} s:\n{late.output}"
        text = ended.stdout.replace(str(self.folder), ".")
        return ended.returncode, text.replace(f"{socket.gethostname()}:", "host:")

    def _pictures(self):
        """The pictures that its commands have drawn are those that are shown."""
        for drawn in sorted(Path("docs/pictures").iterdir()):
            if drawn.name in OF_TEXT and sys.version_info[:2] != DRAWN_BY:
                continue
            if drawn.read_bytes() != (ROOT / drawn).read_bytes():
                yield f"{self.place}: its command draws another {drawn}"
