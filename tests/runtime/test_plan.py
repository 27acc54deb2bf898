"""Plans as files: read back as written, pinned, and refused for anything else."""

from dataclasses import replace

import pytest

from ringlet import nn, runtime
from ringlet.comm.schedules.links import Links
from ringlet.runtime.planning.setting import MEGATRON, RINGLET

CONFIG = nn.models.GPTConfig(n_layer=4, n_embd=64, n_head=4, vocab_size=512, block_size=64)


@pytest.fixture(scope="module")
def found():
    return runtime.plan(CONFIG, "laptop", 8, ranks=4, fixed={"pp": 2, "schedule": "1f1b"})


@pytest.fixture
def made(found):
    return runtime.make_plan(found.best[0], found.request.model, found.request.cluster)


def test_a_plan_is_read_back_as_it_was_written(made, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(str(made))
    assert runtime.load_plan(path) == made
    assert "pp=2" in made.choices.mesh
    assert made.predicted.seconds > 0
    assert str(Links.parse(made.variables["RINGLET_LINKS"])) == made.links


WRONG = {
    "no version": ("version = 1", "", "version is None; this ringlet reads 1"),
    "another version": ("version = 1", "version = 7", "version is 7; this ringlet reads 1"),
    "a negative figure": ("zero = ", "zero = -", r"choices.zero is -\d; it must be a whole number"),
    "no number": ("seconds = ", "seconds = true #", "predicted.seconds is True; it must be a"),
    "a wrong key": ("batch = 8", "bach = 8", "bach is unknown; did you mean batch"),
    "no table": ("[predicted]", "[other]", "predicted is missing"),
    "no algorithm": ("batch = 8", 'batch = 8\nalgorithms = "all_reduce=x"', "no algorithm 'x'"),
    "no link": ('links = "host', 'links = "hose', "RINGLET_LINKS is"),
    "not TOML": ("version = 1", "version", "is not TOML"),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_no_plan_is_refused_by_name(made, tmp_path, old, new, message):
    path = tmp_path / "plan.toml"
    written = str(replace(made, choices=replace(made.choices, zero=1)))
    assert old in written
    path.write_text(written.replace(old, new))
    with pytest.raises(runtime.PlanError, match=message) as error:
        runtime.load_plan(path)
    assert str(path) in str(error.value)


def test_a_missing_plan_is_refused(tmp_path):
    with pytest.raises(runtime.PlanError, match=r"cannot read .*No such file"):
        runtime.load_plan(tmp_path / "none.toml")


def test_a_plan_is_for_one_model_and_batch(made):
    made.check(runtime.model_of(CONFIG), 8)
    other = nn.models.GPTConfig(n_layer=2, n_embd=64, n_head=4, vocab_size=512, block_size=64)
    with pytest.raises(runtime.PlanError, match="model with blocks 4, and this one has 2"):
        made.check(runtime.model_of(other), 8)
    with pytest.raises(runtime.PlanError, match="batch of 8, and this run's is 16"):
        made.check(runtime.model_of(CONFIG), 16)


ASKED = {
    "no model": (("gpt5", "laptop", 8), {}, "there is no model gpt5; there are gpt2"),
    "no cluster": (("gpt2", "moon", 8), {}, "there is no cluster moon; there are"),
    "no batch": (("gpt2", "laptop", 0), {}, "a batch of 0; it must be at least 1"),
    "no objective": (("gpt2", "laptop", 8), {"objective": "joy"}, "no objective joy; there are"),
    "too many ranks": (("gpt2", "laptop", 8), {"ranks": 5}, "laptop has 4 devices, not 5"),
}


@pytest.mark.parametrize(("words", "options", "message"), ASKED.values(), ids=ASKED)
def test_what_cannot_be_planned_is_refused(words, options, message):
    with pytest.raises((runtime.PlanError, runtime.ClusterError), match=message):
        runtime.plan(*words, **options)


def test_devices_with_half_precision_run_megatrons_program():
    for cluster, program in (("laptop", RINGLET), ("selene", MEGATRON)):
        found = runtime.plan("gpt2", cluster, 4, ranks=1)
        assert found.request.program is program
