"""`ringlet train` and `ringlet generate` as a user runs them."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from ringlet.launcher.cli import main
from ringlet.runtime.training.config import TrainConfig

RINGLET = [sys.executable, "-c", "from ringlet.launcher.cli import main; main()"]
METRICS = "runs/pydoc-tiny/metrics.jsonl"
QUICK = ["--preset", "tiny", "--config", str(Path(__file__).with_name("quick.toml"))]


def ringlet(*arguments, cwd, deadline=180):
    """Run a command in a folder of its own, with its temporary files there."""
    return subprocess.run(
        [*RINGLET, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=deadline,
        env={**os.environ, "TMPDIR": str(temporary(cwd)), "COLUMNS": "100"},
    )


def temporary(cwd):
    """The temporary files of what runs there: a short path, for sockets."""
    return Path(made_for(cwd).name)


@cache
def made_for(cwd):
    return tempfile.TemporaryDirectory(prefix="t-")


def pasted(command, folder):
    """Run a line that a run has printed, in a shell."""
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=180
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """`here(*arguments, cwd)`: as `ringlet`, for a command that starts no worker, in this process:
    its exit code, stdout and stderr."""

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A short run in the default folder."""
    folder = tmp_path_factory.mktemp("run")
    result = ringlet("train", *QUICK, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_run_says_what_it_does_and_how_to_go_on(done):
    folder, result = done
    out = result.stdout
    assert result.stderr == ""
    assert "2 workers" in out
    line = (
        r"step 20/20  loss \d\.\d+, validation \d\.\d+ \(\d\.\d+ bits per byte\)  [\d,]+ tokens/s"
    )
    assert re.search(line, out)
    assert re.search(r"done after step 20: validation loss \d\.\d{4} nats per byte", out)
    assert "--- a sample ---" in out
    assert "runs/pydoc-tiny/checkpoints/step-000020" in out
    assert "runs/pydoc-tiny/metrics.jsonl" in out
    assert "-m ringlet train --resume --out runs/pydoc-tiny --steps 40" in out
    assert (folder / "runs/pydoc-tiny/checkpoints/step-000020/manifest.json").is_file()
    rows = [json.loads(x) for x in (folder / "runs/pydoc-tiny/metrics.jsonl").open()]
    assert rows[-1]["step"] == 20
    run = folder / "runs/pydoc-tiny"
    about, end = (json.loads((run / name).read_text()) for name in ("run.json", "end.json"))
    assert (about["config"]["steps"], about["workers"], about["mesh"]["dp"]) == (20, 2, 2)
    assert (end["how"], end["step"], end["val_loss"]) == ("done", 20, rows[-1]["val_loss"])
    assert list(temporary(folder).iterdir()) == []


def test_the_commands_that_it_prints_work(done, here):
    folder, result = done
    go_on = re.search(r"continue +(.*)", result.stdout)[1]
    resumed = pasted(f"{go_on} --workers 3", folder)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step 20" in resumed.stdout
    assert "done after step 40" in resumed.stdout
    source = re.search(r"generate .* generate --from (\S+)", result.stdout)[1]
    prompt = ("--prompt", "The é")
    process = ringlet("generate", "--from", source, *prompt, "--seed", 1, cwd=folder)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("The é")
    assert len(process.stdout) > 300
    for seed in (1, 2):
        code, text, error = here("generate", "--from", source, *prompt, "--seed", seed, cwd=folder)
        assert (code, text == process.stdout) == (0, seed == 1), error


def test_a_second_run_takes_the_next_name(done):
    folder, _ = done
    result = ringlet("train", *QUICK, "--steps", "2", "--sample", "0", cwd=folder)
    assert "runs/pydoc-tiny-2/metrics.jsonl" in result.stdout


@pytest.mark.slow
def test_two_runs_at_once_have_a_folder_each(tmp_path):
    arguments = [*RINGLET, "train", *QUICK, "--steps", "2", "--sample", "0", "-n", "1"]
    both = [subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=180) for process in both] == [0, 0]
    for name in ("pydoc-tiny", "pydoc-tiny-2"):
        assert len((tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_default_folder_may_not_be_had(tmp_path, here):
    runs = tmp_path / "runs"
    for make, text in (
        (lambda: runs.symlink_to("gone"), "runs is a link to gone, which is not there"),
        (lambda: runs.touch(), "runs is a file"),
    ):
        make()
        code, _, error = here("train", *QUICK, cwd=tmp_path)
        assert (code, text in error) == (2, True)
        runs.unlink()


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path, here):
    """The second start is refused; what only reads is not; after SIGKILL the folder is free."""
    kept = ["--checkpoint-every", "1", "--keep", "1", "--no-keep-best", "--eval-every", "100000"]
    arguments = [*RINGLET, "train", *QUICK, "--steps", "100000", *kept, "--out", "o", "-n", "1"]
    both = [
        subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        saved = tmp_path / "o" / "checkpoints"
        deadline = time.monotonic() + 60
        while not list(saved.glob("step-*[0-9]")) and time.monotonic() < deadline:
            time.sleep(0.05)
        (second,) = (process for process in both if process.poll() is not None)
        (first,) = (process for process in both if process is not second)
        assert second.wait() == 2
        in_use = f"o is in use by another run (pid {first.pid} on "
        assert in_use in second.stderr.read().decode()
        resume = ("train", "--resume", "--out", "o", "--steps", "200000")
        code, _, error = here(*resume, cwd=tmp_path)
        assert (code, in_use in error) == (2, True)
        for _ in range(2):  # while checkpoints come and go
            code, _, error = here("generate", "--from", "o", "--max-new-tokens", 1, cwd=tmp_path)
            assert (code, error) == (0, "")
        assert here("export", "--from", "o", "--to", "hf", cwd=tmp_path)[0] == 0
        assert first.poll() is None
    finally:
        for process in both:
            process.kill()
            process.communicate()
    last = max(int(path.name.partition("-")[2]) for path in saved.glob("step-*[0-9]"))
    steps = ("--steps", last + 2, "--sample", "0", "-n", "1")
    again = ringlet("train", "--resume", "--out", "o", *steps, cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_vocabulary_larger_than_the_bytes_can_write(tmp_path):
    (tmp_path / "c.toml").write_text(
        'preset = "tiny"\nvocab_size = 5000\nsteps = 1\neval_windows = 8\n'
    )
    result = ringlet(
        "train", "--config", "c.toml", "--out", "o", "-n", "1", "--sample", "20", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "--- a sample ---" in result.stdout
    some = ("--max-new-tokens", "20")
    assert ringlet("generate", "--from", "o", *some, cwd=tmp_path).returncode == 0


def test_a_file_of_ids_and_a_config_file(tmp_path, here):
    import numpy as np

    (np.arange(4000) % 300).astype("<u2").tofile(tmp_path / "ids.bin")
    (tmp_path / "c.toml").write_text('preset = "tiny"\nsteps = 4\noptimizer = "sgd"\n')
    result = ringlet(
        "train", "--data", "ids.bin", "--config", "c.toml", "--out", "it's o", "-n", "1",
        "--sample", "50", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "nats per token" in result.stdout
    written = pasted(re.search(r"generate +(.*)", result.stdout)[1], tmp_path)
    assert len(written.stdout.split()) > 50, written.stderr
    assert all(0 <= int(word) < 300 for word in written.stdout.split())
    go_on = re.search(r"continue +(.*)", result.stdout)[1]
    assert "-n 1" in go_on
    assert pasted(f"{go_on} --sample 0", tmp_path).returncode == 0
    (np.arange(4000) % 310).astype("<u2").tofile(tmp_path / "more.bin")
    for data, text in (("more.bin", "holds id 309"), ("pydoc", "pydoc holds bytes")):
        again = ("train", "--resume", "--out", "it's o", "--steps", 9, "--data", data)
        code, _, error = here(*again, cwd=tmp_path)
        assert (code, len(error.splitlines())) == (2, 1)
        assert text in error
    refused = here("generate", "--from", "it's o", "--prompt", "hello", cwd=tmp_path)
    assert refused[:2] == (2, "")


BAD = {
    "missing data": (["--data", "none.txt"], "no data file none.txt"),
    "empty data": (["--data", "empty"], "empty"),
    "short data": (["--data", "short"], "too short"),
    "too many workers": (["--workers", "13"], "13 workers cannot share a batch of 12"),
    "no worker": (["--workers", "0"], "0 workers"),
    "unknown preset": (["--preset", "huge"], "unknown preset 'huge'"),
    "another run": (["--out", "taken"], "taken holds another run"),
    "a file": (["--out", "short"], "short is a file"),
    "nothing to resume": (["--resume", "--out", "nowhere"], "there is no checkpoint in nowhere"),
    "resume what": (["--resume"], "--resume needs --out"),
    "transport": (["--transport", "pigeon"], "unknown transport 'pigeon'"),
    "config": (["--config", "none.toml"], "none.toml"),
    "optimizer": (["--optimizer", "newton"], "unknown optimizer"),
    "steps": (["--steps", "0"], "steps is 0"),
    "timeout": (["--timeout", "-1"], "--timeout is '-1'"),
    "sample": (["--sample", "-1"], "--sample is -1"),
    "no folder there": (["--out", "short/run"], "--out short/run: short is a file"),
    "a broken link": (["--out", "broken"], "broken is a link to gone, which is not there"),
    "a long name": (["--out", "a" * 300], "File name too long"),
    "a large model": (["--n-embd", "1000000"], "the model would take"),
    "a large vocabulary": (["--vocab-size", "4000000000000"], "the model would take"),
    "a large batch": (["--batch-size", "100000000000"], "a batch's ids would take"),
    "long data": (["--data", "a" * 300], "File name too long"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_code_2_before_anything_starts(
    tmp_path, monkeypatch, here, case
):
    arguments, text = BAD[case]
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(b"hello world")
    (tmp_path / "broken").symlink_to("gone")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "metrics.jsonl").write_text("")
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is started
    code, out, error = here("train", *arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert len(error.splitlines()) == 1
    assert text in error
    assert error.startswith("ringlet: ")


def test_a_finished_or_changed_run_is_not_gone_on_with(done, here):
    folder, _ = done
    resume = ("train", "--resume", "--out", "runs/pydoc-tiny", "--steps")
    code, _, error = here(*resume, 10, cwd=folder)
    assert (code, "steps already" in error) == (2, True)
    code, _, error = here(*resume, 99, "--preset", "small", cwd=folder)
    assert code == 2
    assert "n_layer" in error
    assert "cannot change" in error
    code, _, error = here("generate", "--from", "nowhere", cwd=folder)
    assert (code, len(error.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_stops_after_a_step_saves_and_can_be_resumed(tmp_path, number):
    arguments = ["train", *QUICK, "--eval-every", "100000", "--steps", "100000", "--out", "o"]
    process = subprocess.Popen(
        [*RINGLET, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "TMPDIR": str(temporary(tmp_path))},
    )  # fmt: skip
    try:
        metrics = tmp_path / "o" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if metrics.is_file() and len(metrics.read_text().splitlines()) > 5:
                break
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 75, err
    step = int(re.search(r"stopped after step (\d+)", out)[1])
    assert f"step-{step:06d}" in out
    end = json.loads((tmp_path / "o/end.json").read_text())
    assert (end["how"], end["step"]) == ("stopped", step)
    resumed = ringlet(
        "train", "--resume", "--out", "o", "--steps", step + 3, "--sample", "0", cwd=tmp_path
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed after step {step}" in resumed.stdout
    assert list(temporary(tmp_path).iterdir()) == []


def test_help_names_every_default(tmp_path, here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    _, text, _ = here("train", "--help", cwd=tmp_path)
    options = re.findall(r"^ +(?:-\w, )?(--[a-z0-9-]+)", text, re.M)
    shown = [field for field in fields(TrainConfig) if not field.metadata["hidden"]]
    names = {(*f.metadata["names"], f"--{f.name.replace('_', '-')}")[0] for f in shown}
    assert names <= set(options)
    flat = re.sub(r"\s+", " ", text)
    for option in set(options) - {"--help", "--resume", "--config"}:
        assert re.search(rf"{option} .*?\[default: ", flat), option
    assert "[default: 2000]" in flat
    assert "[default: 0.001]" in flat


@pytest.mark.slow
def test_a_mesh_is_one_option_and_any_mesh_can_be_exported(tmp_path):
    how = ["--mesh", "dp=2,tp=2,pp=2", "--zero", "1", "--recompute", "blocks", "--sequence"]
    result = ringlet(
        "train", *QUICK, *how, "--accumulate", "2", "--steps", "10", "--sample", "40", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "with 8 workers (dp=2,tp=2,pp=2)" in result.stdout
    assert "--- a sample ---" in result.stdout
    resumed = ringlet(
        "train", "--resume", "--out", "runs/pydoc-tiny", "--steps", "20", "--mesh", "cp=2",
        "--zero", "3", "--no-sequence", "--sample", "40", cwd=tmp_path,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert "done after step 20" in resumed.stdout
    command = ["export", "--from", "runs/pydoc-tiny", "--to", "hf"]
    assert "of step 20 to hf" in ringlet(*command, cwd=tmp_path).stdout
    assert json.loads((tmp_path / "hf/config.json").read_text())["n_layer"] == 2
    again = ringlet(*command, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (
        2,
        "ringlet: hf holds tokenizer.json already: choose another --to\n",
    )


@pytest.mark.slow
def test_a_device_gives_what_the_cpu_gives(done, fake_cupy, tmp_path):
    """On the stand-in for CuPy (tests/fake): the same losses, and a run that both go on with."""
    folder, _ = done
    result = ringlet("train", *QUICK, "--device", "cuda", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    losses = [
        [json.loads(row).get("loss") for row in (where / METRICS).read_text().splitlines()[1:21]]
        for where in (folder, tmp_path)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    saved = ("--from", "runs/pydoc-tiny", "--max-new-tokens", 9, "--temperature", 0)
    texts = [
        ringlet("generate", *saved, "--device", device, cwd=tmp_path).stdout
        for device in ("cuda", "cpu")
    ]
    assert texts[0] == texts[1] != ""


def test_a_device_that_is_not_there_is_asked_for_in_vain(fake_cupy, tmp_path, monkeypatch, here):
    monkeypatch.setenv("FAKE_GPUS", "0")
    for command in (["train", *QUICK], ["generate", "--from", tmp_path]):
        result = ringlet(*command, "--device", "cuda", cwd=tmp_path)
        assert result.returncode == 2
        assert "CuPy finds no GPU: cudaErrorNoDevice" in result.stderr
        assert "Traceback" not in result.stderr
    assert "unknown device 'tpu'" in here("train", "--device", "tpu", cwd=tmp_path)[2]
