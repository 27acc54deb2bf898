"""What `ringlet` says about itself, and to people who got the command wrong."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from commands import outcome

import ringlet
from ringlet.launcher.commands import pasted
from ringlet.launcher.commands.train.prepare import TrainOptions, prepare
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.runtime.training.config import TrainConfig

WRONG = {
    "no such script": (["nosuch.py", "-n", "2"], "nosuch.py"),
    "a folder": (["."], "there is no script ."),
    "a wrong option": (["--wrokers", "2", "x.py"], "--wrokers"),
    "no module": (["-m"], "-m needs"),
    "transport": (["--transport", "pigeon", "x.py"], "'pigeon'; there are auto, ipc, tcp"),
    "timeout": (["--timeout", "0", "x.py"], "--timeout is 0"),
    "a time": (["--grace", "-1", "x.py"], "--grace is '-1'; it takes seconds, or a time as in"),
    "a long name": (["a" * 300], "a: File name too long"),
    "a file as folder": (["--output", "file", "file"], "--output file: file is a file"),
    "under a file": (["--output", "file/logs", "file"], "--output file/logs: file is a file"),
    "a broken link": (
        ["--output", "broken/logs", "file"], "broken is a link to gone, which is not there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_the_user_can_mend_is_one_line(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("gone")
    arguments, text = WRONG[case]
    code, stdout, stderr = outcome(capsys, "run", *arguments)
    assert (code, stdout) == (2, "")
    assert re.fullmatch(r"ringlet: .*\n", stderr)
    assert text in stderr


@pytest.mark.parametrize("arguments", [["run"], ["run", "-n", "0", "x.py"], ["sprint"]])
def test_wrong_usage_says_what_and_points_to_the_help(arguments, capsys):
    code, stdout, stderr = outcome(capsys, *arguments)
    assert (code, stdout) == (2, "")
    assert "--help" in stderr
    assert "Error: " in stderr


MEANT = {
    "--lr": "--learning-rate", "--learningrate": "--learning-rate", "--batch": "--batch-size",
    "--layers": "--n-layer", "--heads": "--n-head", "--wd": "--weight-decay",
    "--bs": "--batch-size",
    "--min-lr": "--learning-rate-floor", "--lr-schedule": "--learning-rate-schedule",
    "--context": "--block-size", "--tp": "--mesh", "--wrokers": "--workers",
}  # fmt: skip


@pytest.mark.parametrize("option", MEANT)
def test_an_option_that_is_not_there_brings_up_the_one_that_is_meant(option, capsys, tmp_path):
    code, _, stderr = outcome(capsys, "train", option, "1")
    assert code == 2
    assert re.search(rf"No such option:? '?{option}\b.*{MEANT[option]}\b", stderr)
    (tmp_path / "c.toml").write_text(f"{option.strip('-').replace('-', '_')} = 1\n")
    if option != "--wrokers":  # which a file does not have
        _, _, stderr = outcome(capsys, "train", "--config", str(tmp_path / "c.toml"))
        assert MEANT[option].strip("-").replace("-", "_") in stderr.partition("did you mean")[2]


@pytest.mark.parametrize(
    "words", [("train", "--out", ""), ("train", "--out="), ("export", "--from", ".", "--to", "")]
)
def test_an_empty_variable_is_no_folder(words, capsys):
    code, _, stderr = outcome(capsys, *words)
    name = words[-1].strip("=") or words[-2]
    assert (code, stderr) == (2, f"ringlet: {name} is empty; the current folder is .\n")


QUOTED = ["plain", "two words", "it's", "$HOME", "a\nb", "\\", "caf\udce9", "--out", "", "~", "é"]


@pytest.mark.parametrize("word", QUOTED)
def test_what_is_printed_to_be_pasted_is_what_the_shell_reads(word):
    script = f"printf '%s\\0' {pasted.quoted(word)}"
    shown = subprocess.run(["bash", "-c", os.fsencode(script)], capture_output=True, timeout=30)
    assert shown.stdout == os.fsencode(word) + b"\0"
    assert pasted.quoted(word).isprintable()


def test_commands_to_paste_name_the_program_as_the_shell_finds_it(tmp_path, monkeypatch):
    for folder in ("here", "not here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ringlet").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "here"))
    names = {
        str(tmp_path / "here/ringlet"): "ringlet ps",
        str(tmp_path / "not here/ringlet"): f"'{tmp_path}/not here/ringlet' ps",
        "/somewhere/ringlet/__main__.py": f"{sys.executable} -m ringlet ps",
    }
    for own, expected in names.items():
        monkeypatch.setattr(sys, "argv", [own])
        assert pasted.command("ps") == expected


def test_ringlet_is_a_module_that_runs(tmp_path):
    command = [sys.executable, "-m", "ringlet", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert shown.stdout == f"ringlet {ringlet.__version__}\n"


def test_version(capsys):
    assert outcome(capsys, "--version") == (0, f"ringlet {ringlet.__version__}\n", "")


def test_the_console_script_is_the_same():
    script = Path(sys.executable).with_name("ringlet")
    if not script.exists():
        pytest.skip("ringlet is not installed beside this interpreter")
    shown = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30)
    assert shown.stdout == f"ringlet {ringlet.__version__}\n"


def test_without_arguments_there_is_help(capsys):
    _, stdout, stderr = outcome(capsys)
    for command in ("run", "train", "generate", "explain", "key", "doctor", "ps"):
        assert re.search(rf"^ +{command} ", stdout + stderr, re.MULTILINE)
    assert "..." not in (stdout + stderr).partition("Commands:")[2]  # each fits its line


DEFAULTS = {
    "run": {"--workers": "2", "--transport": "auto", "--timeout": "300s", "--grace": "30s"},
    "train": {"--workers": "2", "--transport": "auto", "--timeout": "300s", "--grace": "30s"},
    "generate": {"--temperature": "0.8", "--top-k": "50", "--seed": "0"},
}


@pytest.mark.parametrize("command", DEFAULTS)
def test_help_lists_the_defaults(command, capsys):
    code, stdout, _ = outcome(capsys, command, "--help")
    assert code == 0
    parts = re.split(r"\n +(?=-)", stdout)
    for option, default in DEFAULTS[command].items():
        (part,) = (" ".join(part.split()) for part in parts if option in part.split()[:3])
        assert re.search(rf"\[default: {re.escape(default)}\b", part), part


HEADINGS = {
    "run": ["Arguments", "Options", "Output", "Workers", "Hosts", "Ray"],
    "train": [
        "Options", "Model", "Data", "Parallelism", "Optimization", "Output", "Workers", "Hosts",
        "Ray",
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", HEADINGS)
def test_help_groups_the_options_under_headings(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # even then
    _, out, _ = outcome(capsys, command, "--help")
    assert re.findall(r"^(\w+):$", out, re.MULTILINE) == HEADINGS[command]
    assert max(map(len, out.splitlines())) <= 80
    for section in out.split("\n\n")[-len(HEADINGS[command]) :]:
        assert re.match(r"\w+:\n  \S", section)


def test_every_training_option_has_a_heading(capsys):
    _, out, _ = outcome(capsys, "train", "--help")
    sections = dict(re.findall(r"^(\w+):\n((?: .*\n)+)", out, re.MULTILINE))
    for option in (each for each in fields(TrainConfig) if not each.metadata["hidden"]):
        name = (*option.metadata["names"], f"--{option.name.replace('_', '-')}")[0]
        assert re.search(rf"^  {name} ", sections[option.metadata["heading"]], re.MULTILINE), name
    for name in ("--workers", "--preset", "--config", "--out", "--resume", "--help"):
        assert name in sections["Options"]


WRONG_MESHES = {
    "the product": (["--mesh", "dp=3", "-n", "2"], "dp=2 would fit"),
    "what is left": (["--mesh", "tp=3", "-n", "4"], "start 3 workers"),
    "no axis": (["--mesh", "xp=2"], "no axis 'xp'; there are dp (data), tp (tensor)"),
    "no length": (["--mesh", "tp=two"], "tp is 'two'"),
    "twice": (["--mesh", "tp=2,tp=2"], "tp is given twice"),
    "heads": (["--mesh", "tp=3"], "tp can be 1, 2, 4"),
    "layers": (["--mesh", "pp=8"], "4 blocks are too few for 8 stages"),
    "context": (["--mesh", "cp=3"], "a multiple of 6 would fit"),
    "batch": (["--mesh", "dp=13"], "at most 12 can"),
    "ZeRO": (["--zero", "5"], "there is no stage 5 of ZeRO"),
    "zero-bubble": (
        ["--mesh", "pp=2,dp=2", "--schedule", "zero-bubble", "--zero", "2"],
        "zero=1, or the schedule 1f1b, would fit",
    ),
    "schedule": (["--mesh", "pp=2", "--schedule", "fast"], "there are gpipe, 1f1b"),
    "chunks": (["--mesh", "pp=2", "--schedule", "zb-v", "--chunks", "3"], "needs exactly 2 chunks"),
    "no cut": (
        ["--mesh", "pp=2", "--layers-per-stage", "2,x"],
        "each stage's number of blocks, as",
    ),
    "an empty stage": (["--mesh", "pp=2", "--layers-per-stage", "0,4"], "at least one block"),
    "other stages": (["--mesh", "pp=2", "--layers-per-stage", "1,2,1"], "2,2 would fit"),
    "other blocks": (
        ["--mesh", "pp=2", "--layers-per-stage", "1,2"],
        "3 blocks, and there are 2 (p",
    ),
    "sequence": (["--sequence"], "needs tensor parallelism"),
    "rounds": (["--local-steps", "3"], "steps is 2000; with local_steps 3"),
}


@pytest.mark.parametrize("case", WRONG_MESHES)
def test_a_mesh_that_cannot_be_is_refused_before_anything_starts(
    case, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments, text = WRONG_MESHES[case]
    code, stdout, stderr = outcome(capsys, "train", *arguments)
    assert (code, stdout) == (2, "")
    assert re.fullmatch(r"ringlet: .*\n", stderr)
    assert text in stderr
    assert not list(tmp_path.iterdir())


IDLE = {
    "train": [
        ("--momentum 0.9", "adamw has none"), ("--optimizer sgd --beta1 0.5", "sgd has none"),
        ("--optimizer rmsprop --beta1 0.5", "rmsprop"), ("--optimizer sgd --beta2 0.5", "sgd"),
        ("--learning-rate-schedule constant --learning-rate-floor 1e-5", "constant has none"),
        ("--learning-rate-floor 1", "above learning_rate 0.001; 0.0001 would fit"),
        ("--learning-rate 1e-5", "learning_rate_floor 0.0001 is above"),
        ("--learning-rate-schedule one_cycle --warmup-steps 9", "warms up by itself"),
        ("--top-k 2", "no experts"), ("--capacity-factor 2", "no experts"),
        ("--balance 0.1", "no experts"), ("--bias --model llama", "a llama has none"),
        ("--schedule 1f1b", "no pipeline"), ("--outer-momentum 0.9", "local_steps above 1"),
        ("--outer-learning-rate 0.7", "local_steps above 1"), ("--zero 1 -n 1", "between ranks"),
        ("--priority --clip 0 -n 1", "between ranks"), ("--bucket-bytes 1MiB --zero 2", "block by"),
        ("--local-steps 2 --bucket-bytes 1MiB", "between ranks"),
        ("--recompute block", "no module fits 'block'"), ("--recompute ,", "no module fits ','"),
        ("--recompute blocks,*.atend", "no module fits '*.atend'"),
        ("--node-rank 1", "for jobs on several hosts"), ("--insecure", "for jobs on several hosts"),
    ],
    "run": [
        ("--interface lo file", "for jobs on several hosts"),
        ("--address 127.0.0.1 file", "for jobs on several hosts"),
        ("--hosts a,b --node-rank 0 file", "leave them out"),
    ],
    "generate": [
        ("--from . --beams 2 --top-k 3", "beams search"),
        ("--from . --temperature 0 --seed 3", "the likeliest"),
    ],
    "explain": [
        ("all-reduce --host-latency 1us", "there is one host"), ("barrier --bytes 4", "nothing"),
        ("all-reduce --algorithm shared-memory --latency 1us", "not priced"),
    ],
    "doctor": [("--timeout 3", "between hosts"), ("--nnodes 2", "several hosts need --master")],
}  # fmt: skip


@pytest.mark.parametrize("command", IDLE)
def test_an_option_that_would_do_nothing_is_refused(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for arguments, text in IDLE[command]:
        code, stdout, stderr = outcome(capsys, command, *arguments.split())
        assert (code, stdout) == (2, ""), arguments
        assert re.fullmatch(r"ringlet: .*\n", stderr)
        assert text in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_may_list_all_options_and_what_is_off_may_be_said(tmp_path):
    usual = "".join(f"{each.name} = {json.dumps(each.default)}\n" for each in fields(TrainConfig))
    (tmp_path / "c.toml").write_text(usual)
    options = TrainOptions(config=tmp_path / "c.toml", out=tmp_path / "out")
    off = {"momentum": 0.0, "outer_momentum": 0.0, "balance": 0.0, "zero": 0, "recompute": ""}
    training = prepare(options, off, (1, 1), WorkerOptions())
    assert json.loads(training.task(0, 1))["config"]["momentum"] == 0
    training.close()


def test_a_run_on_one_host_starts_without_what_it_does_not_need():
    program = "import sys; from ringlet.launcher.cli import make_app; make_app(['run'])"
    program += "; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert {"click", "ringlet"} <= set(done.stdout.split())
    assert {"numpy", "zmq", "msgpack"}.isdisjoint(done.stdout.split())
