"""`ringlet plan` and `ringlet simulate`: what they say, also to who asks for what cannot be."""

import json
import re

import pytest
from commands import outcome

from ringlet import runtime

LAPTOP = ("--cluster", "laptop", "--model", "tiny", "--ranks", "2")


def printed(capsys, *arguments):
    code, stdout, stderr = outcome(capsys, *arguments)
    assert (code, stderr) == (0, "")
    return stdout


WRONG = {
    "a model": (["plan", "--model", "gpt5"], r"there is no model gpt5; there are gpt, llama, tiny"),
    "too many here": (
        ["plan", "--model", "llama-7b", "--batch", "8", "--ranks", "9" * 20],
        "workers on this machine; at most 1024 are planned",
    ),
    "no batch": (["plan", "--model", "llama-7b"], "llama-7b needs --batch"),
    "own sizes": (
        ["plan", "--model", "llama-7b", "--batch", "8", "--n-layer", "3"],
        "--n-layer is for a preset, gpt or llama; llama-7b has its own",
    ),
    "sizes": (["plan", "--n-head", "3"], "n_embd 128 cannot be cut into n_head 3 heads"),
    "data": (["plan", "--data", "none.txt"], "there is no data file none.txt"),
    "config": (["plan", "--config", "none.toml"], "cannot read none.toml: No such file"),
    "a cluster": (["plan", "--cluster", "moon"], "there is no cluster moon; there are a100, h100"),
    "no TOML": (["plan", "--cluster", "wrong.toml"], "wrong.toml is not TOML"),
    "a negative figure": (
        ["plan", "--cluster", "minus.toml"], r"device.memory is -1; it must be above 0",
    ),
    "memory": (["plan", "--memory", "lots"], "--memory is 'lots'; it takes bytes"),
    "no memory": (["plan", "--memory", "0"], "--memory is 0; it must be at least 1"),
    "objective": (["plan", "--objective", "joy"], "there is no objective joy; there are time"),
    "program": (["plan", "--program", "x"], "there is no program x; there are ringlet, megatron"),
    "precision": (
        ["plan", *LAPTOP, "--program", "megatron"], "device.peak has no float16, in which",
    ),
    "ranks": (["plan", "--cluster", "laptop", "-n", "5"], "laptop has 4 devices, not 5"),
    "an axis": (["plan", *LAPTOP, "--mesh", "zp=2"], "a mesh has no axis 'zp'"),
    "a length": (["plan", *LAPTOP, "--mesh", "tp=3"], "on 2 ranks: no mesh of so many has tp=3"),
    "parts": (
        ["plan", *LAPTOP, "--batch", "7", "--mesh", "dp=2"],
        "dp=2: a batch of 7 has no equal parts for 2 replicas",
    ),
    "micro-batches": (["plan", *LAPTOP, "--accumulate", "7"], "no micro-batches or options fit"),
    "schedule": (
        ["plan", *LAPTOP, "--mesh", "dp=2", "--schedule", "zb-v"],
        "zb-v is a pipeline schedule, and the mesh has pp=1",
    ),
    "too large": (
        ["plan", *LAPTOP, "--memory", "1MB"],
        r"nothing fits into 1 MB on each; the least is .* It fits with --memory 0.00\dGB",
    ),
    "a folder": (["plan", *LAPTOP, "--out", "no/plan.toml"], "there is no folder no"),
    "slow": (["simulate", "--slow", "3"], "--slow has '3'; it takes RANK=FACTOR, as in 3=1.5"),
    "slow by 0": (["simulate", "--slow", "3=0"], "--slow has '3=0'; it takes RANK=FACTOR"),
    "slow twice": (["simulate", "--slow", "0=2,0=3"], "--slow has rank 0 twice"),
    "slow ranks": (["simulate", *LAPTOP, "--slow", "2=2"], "rank 2 is 2.0 times .* there are 2"),
    "a mesh": (["simulate", *LAPTOP, "--mesh", "tp=4"], "a mesh of tp=4 has 4 ranks"),
    "a batch": (
        ["simulate", *LAPTOP, "--batch", "7"],
        "a batch of 7 has no equal parts for 2 replicas; a multiple of 2 has",
    ),
    "stages": (
        ["simulate", *LAPTOP, "--mesh", "pp=2", "--layers-per-stage", "2,2"],
        r"2 stages with 4 blocks.* 1,1 would fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_one_line(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text("nonsense")
    (tmp_path / "minus.toml").write_text(
        "devices = 1\n[device]\nmemory = -1\nbandwidth = 1\npeak = {float32 = 1}\n"
    )
    code, stdout, stderr = outcome(capsys, *arguments)
    assert (code, stdout) == (2, "")
    assert re.fullmatch(r"ringlet: .*", stderr.splitlines()[-1])
    assert re.search(text, stderr.splitlines()[-1])
    assert len(stderr.splitlines()) <= 2  # whose figures were taken


def test_a_plan_is_a_table_a_file_and_reasons(capsys, tmp_path):
    text = printed(capsys, "plan", *LAPTOP, "--out", str(tmp_path / "plan.toml"))
    assert re.search(r"^1 +\S+ +\d+ x \d+ ", text, re.MULTILINE)
    assert "ep=2: ep=2 shards experts" in text
    made = runtime.load_plan(tmp_path / "plan.toml")
    assert (made.ranks, made.batch, made.model.blocks) == (2, 8, 2)


def test_json_has_what_the_library_finds(capsys):
    found = json.loads(printed(capsys, "plan", *LAPTOP, "--json", "--objective", "memory"))
    assert found["best"][0]["memory"] == min(one["memory"] for one in found["best"])
    assert found["complete"]
    assert "ep=2" in found["lost"]


CHOSEN = {
    "mesh": ("pp=2", lambda one: one["mesh"] == {"pp": 2}),
    "zero": ("1", lambda one: one["zero"] == 1),
    "accumulate": ("4", lambda one: one["accumulate"] == 4),
    "schedule": ("gpipe", lambda one: one["schedule"] == "gpipe"),
    "recompute": ("blocks", lambda one: one["recompute"] == ["blocks"]),
    "layers-per-stage": ("1,1", lambda one: one["layers_per_stage"] == [1, 1]),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_is_given_stays(name, capsys):
    value, kept = CHOSEN[name]
    found = json.loads(printed(capsys, "plan", *LAPTOP, "--json", f"--{name}", value))
    assert found["best"]
    assert all(map(kept, found["best"]))


def test_reasons_of_one_kind_are_one_line_unless_all_are_wanted(capsys):
    words = ["plan", "--model", "gpt2", "--cluster", "selene", "--batch", "16", "--ranks", "16"]
    words += ["--mesh", "dp=1", "--zero", "0", "--accumulate", "16"]
    short, every = printed(capsys, *words), printed(capsys, *words, "--all")
    assert re.search(r"and \d+ others for such a reason \(--all\)", short)
    assert "others for such" not in every
    assert len(every.splitlines()) > len(short.splitlines())


def test_with_more_ranks_it_would_fit(capsys):
    words = ["--model", "llama-7b", "--batch", "8", "--ranks", "8", "--memory", "10GB"]
    words += ["--mesh", "dp=1,cp=1,pp=1"]
    _, _, stderr = outcome(capsys, "plan", "--cluster", "selene", *words)
    assert re.search(r"It fits with --memory [\d.]+GB, or on 16 ranks$", stderr)


@pytest.mark.parametrize(
    ("options", "states"),
    [((), 2), (("--optimizer", "sgd"), 0), (("--optimizer", "sgd", "--momentum", "0.9"), 1),
     (("--optimizer", "lion"), 1), (("--optimizer", "adafactor"), 0)],
)  # fmt: skip
def test_each_optimizer_has_its_own_state(capsys, options, states):
    found = json.loads(printed(capsys, "simulate", *LAPTOP, "--mesh", "dp=2", "--json", *options))
    (rank,) = found["memory_by_rank"]
    assert rank["optimizer"] == states * rank["parameters"]


def test_a_simulated_step_says_where_its_time_goes(capsys):
    words = ["--model", "llama-7b", "--cluster", "selene", "--batch", "64", "--ranks", "16"]
    words += ["--mesh", "tp=2,pp=2", "--accumulate", "4"]
    text = printed(capsys, "simulate", *words)
    for what in ("tokens/s", "MFU", "bubble", "tp ", "NVLink", "backward", "goodput", "Daly"):
        assert what in text
    found = json.loads(printed(capsys, "simulate", *words, "--json"))
    slowed = json.loads(printed(capsys, "simulate", *words, "--json", "--slow", "3=2"))
    assert slowed["seconds"] > found["seconds"] * 1.5
    assert found["mesh"] == {"pp": 2, "dp": 4, "tp": 2}
    assert len(found["memory_by_rank"]) == 2
    assert found["failures"]["goodput"] < 1


def test_the_machine_at_hand_is_described_by_default(capsys):
    code, stdout, stderr = outcome(capsys, "simulate", "--model", "tiny", "-n", "3", "--batch", "9")
    assert code == 0
    assert "on 3 ranks of this machine" in stdout
    assert "not calibrated" in stderr
