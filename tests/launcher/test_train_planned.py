"""`ringlet train --plan` and `--auto`: what is refused, what is kept, and what was tried."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ringlet.launcher.cli import main
from ringlet.launcher.commands.plan.machine import machine
from ringlet.launcher.commands.train import automatic
from ringlet.launcher.commands.train.planned import Run
from ringlet.launcher.commands.train.trials import attempt
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.runtime.planning.cluster import load_cluster
from ringlet.runtime.planning.plan import load_plan, make_plan, plan
from ringlet.runtime.training.config import make_config

SIZES = {"steps": 2, "warmup_steps": 1, "eval_windows": 4}
QUICK = ["train", "--preset", "tiny", "--sample", "0"] + [
    word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(value))
]


@pytest.fixture(scope="module")
def found():
    config = make_config("tiny", options=SIZES)
    run = Run(config, {}, 256)
    return run, plan(run.model, load_cluster("laptop"), 8, ranks=2, fixed={"pp": 2, "tp": 1})


@pytest.fixture(autouse=True)
def uncalibrated(monkeypatch):
    """Nothing is measured, which takes long."""
    monkeypatch.setattr(
        automatic, "machine", lambda workers, transport, measure: machine(workers, transport)
    )


@pytest.fixture
def here(found, tmp_path, monkeypatch):
    """A folder with a plan."""
    monkeypatch.chdir(tmp_path)
    _, search = found
    made = make_plan(search.best[0], search.request.model, search.request.cluster)
    Path("plan.toml").write_text(str(made))
    Path("other.toml").write_text("zero = 1\n")
    return made


def outcome(capfd, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ringlet", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return (ended.value.code or 0, *capfd.readouterr())


WRONG = {
    "a mesh": (["--mesh", "dp=2"], "--mesh dp=2 contradicts plan.toml, which has pp=2"),
    "an option": (["--zero", "1"], "--zero 1 contradicts plan.toml, which has 0: leave it out"),
    "in a file": (["--config", "other.toml"], "--zero 1 contradicts plan.toml"),
    "a batch": (["--batch-size", "4"], "the plan is for a batch of 8, and this run's is 4"),
    "a model": (["--n-layer", "4"], "the plan is for a model with blocks 2, and this one has 4"),
    "workers": (["-n", "4"], "the plan is for 2 workers, and there are 4"),
    "auto": (["--auto"], "--plan says how to train, and --auto would plan anew"),
    "measure": (["--measure"], "--measure is a part of --auto"),
    "allow": (["--allow", "batch_size"], "--allow is a part of --auto"),
    "elastic": (
        ["--nnodes", "1:2", "--node-rank", "0", "--master", "127.0.0.1:1", "--insecure"],
        "a plan is for one number of workers",
    ),
}


@pytest.mark.parametrize(("words", "text"), WRONG.values(), ids=WRONG)
def test_what_contradicts_a_plan_is_one_line(words, text, here, capfd, monkeypatch):
    code, stdout, stderr = outcome(capfd, monkeypatch, *QUICK, "--plan", "plan.toml", *words)
    assert (code, stdout) == (2, "")
    assert re.fullmatch(r"ringlet: .*\n", stderr)
    assert text in stderr


FILES = {
    "missing": ("", "cannot read wrong.toml: No such file"),
    "no plan": ("[model]\n", "wrong.toml: version is None; this ringlet reads 1"),
    "no TOML": ("nonsense", "wrong.toml is not TOML"),
}


@pytest.mark.parametrize(("content", "text"), FILES.values(), ids=FILES)
def test_what_is_no_plan_is_one_line(content, text, here, capfd, monkeypatch):
    if content:
        Path("wrong.toml").write_text(content)
    code, stdout, stderr = outcome(capfd, monkeypatch, *QUICK, "--plan", "wrong.toml")
    assert (code, stdout) == (2, "")
    assert text in stderr
    assert re.fullmatch(r"ringlet: .*\n", stderr)


def test_other_algorithms_than_the_pinned_ones_are_refused(here, capfd, monkeypatch):
    monkeypatch.setenv("RINGLET_LINKS", "host=1,1,1;network=1,1,1")
    code, _, stderr = outcome(capfd, monkeypatch, *QUICK, "--plan", "plan.toml")
    assert code == 2
    assert "RINGLET_LINKS is 'host=1,1,1;network=1,1,1', and plan.toml pins" in stderr


REFUSED = {
    "compress": "--allow compress: the planner knows what it saves on the way, but not",
    "local-steps": "--allow local_steps: more of it is always faster",
    "joy": "--allow has joy; it takes batch_size",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_priced_is_not_allowed(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = outcome(capfd, monkeypatch, *QUICK, "--auto", "--allow", name)
    assert (code, stdout) == (2, "")
    assert REFUSED[name] in stderr


def test_a_plan_is_run_kept_and_left(here, capfd, monkeypatch):
    words = ["--plan", "plan.toml", "--out", "run", "--mesh", "pp=2"]
    code, stdout, _ = outcome(capfd, monkeypatch, *QUICK, *words)
    assert code == 0
    assert "(pp=2)" in stdout
    assert load_plan(Path("run/plan.toml")) == here
    manifest = json.loads(Path("run/checkpoints/step-000002/manifest.json").read_text())
    assert manifest["config"]["accumulate"] == here.choices.accumulate
    again = ["train", "--resume", "--out", "run", "--sample", "0", "--steps"]
    code, stdout, stderr = outcome(capfd, monkeypatch, *again, "3")
    assert (code, stderr) == (0, "")
    assert load_plan(Path("run/plan.toml")) == here
    code, stdout, stderr = outcome(capfd, monkeypatch, *again, "4", "--mesh", "tp=2")
    assert code == 0
    assert "the run goes on without its plan and what that chose: --mesh tp=2" in stderr
    assert "(tp=2)" in stdout
    assert not Path("run/plan.toml").exists()
    code, stdout, _ = outcome(capfd, monkeypatch, *again, "5", "--plan", "plan.toml")
    assert code == 0
    assert "(pp=2)" in stdout


def test_auto_says_what_it_chose_and_keeps_what_was_given(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--auto", "--mesh", "tp=2", "--out", "run"]
    code, _, stderr = outcome(capfd, monkeypatch, *QUICK, *words)
    assert code == 0
    assert re.search(r"planned tp=2, .* a step and .* a worker are expected", stderr)
    assert load_plan(Path("run/plan.toml")).choices.mesh == "tp=2"


@pytest.fixture
def said(monkeypatch):
    """The lines that are said while a run is planned."""
    lines = []
    screen = SimpleNamespace(say=lines.append)
    for module in ("train.automatic", "plan.machine"):
        monkeypatch.setattr(f"ringlet.launcher.commands.{module}.Screen", lambda: screen)
    return lines


def made(workers, allowed=(), **options):
    config = make_config("tiny", options=options)
    run = Run(config, {}, 256)
    return automatic.make(run, workers, list(allowed), WorkerOptions(), measure=False)


def test_auto_leaves_what_it_cannot_plan(said):
    assert made(5, batch_size=12) is None
    assert "not planned, the options stay: gpt, batch 12, on 5 ranks" in said[-1]


def test_auto_changes_the_batch_only_if_allowed(said):
    assert made(2).batch == 8
    assert 8 <= made(2, ["batch_size"]).batch <= 16
    assert "planned" in said[-1]


@pytest.mark.parametrize(("gain", "stays"), [(1.04, True), (1.06, False)])
def test_auto_keeps_the_options_unless_something_else_is_clearly_faster(gain, stays, monkeypatch):
    run = Run(make_config("tiny", options=SIZES), {}, 256)
    request, best = automatic._search(run, 2, [], "auto")
    usual = automatic._usual(run, request)
    other = next(one for one in best if one.setting != usual.setting)
    faster = replace(other.simulation, seconds=usual.simulation.seconds / gain)
    found = request, [replace(other, simulation=faster)]
    monkeypatch.setattr(automatic, "_search", lambda *args: found)
    made = automatic.make(run, 2, [], WorkerOptions(), measure=False)
    expected = usual if stays else other
    assert made.choices == automatic.the_plan(expected, request).choices


def test_a_trial_measures_and_one_that_is_late_says_so(found):
    run, search = found
    trial = attempt(run, search.request, search.best[0], WorkerOptions())
    assert 0 < trial.seconds < 10
    assert trial.reason == ""
    late = attempt(run, search.request, search.best[0], WorkerOptions(), deadline=0.01)
    assert late.reason == "took more than 0.01 s (after 0 steps)"
    transport = WorkerOptions(transport="pigeon")
    assert "pigeon" in attempt(run, search.request, search.best[0], transport).reason
