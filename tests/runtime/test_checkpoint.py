"""Checkpoints: whole or not there, and never silently wrong."""

import json
import shutil

import numpy as np
import pytest

from ringlet import comm
from ringlet.nn import FlatParameters, Linear, Sequential, Tensor
from ringlet.nn.optim import SGD, AdamW
from ringlet.runtime import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from ringlet.runtime.checkpoint.checkpoint import MANIFEST, checkpoints
from ringlet.runtime.checkpoint.state import TrainingState

SHARD = "shard-0.safetensors"  # what rank 0 writes


@pytest.fixture(scope="module")
def world():
    """This process alone."""
    return comm.init()


def made(width=6, optimizer=AdamW, steps=3):
    model = Sequential(Linear(4, width), Linear(width, 2))
    flat = FlatParameters(model)
    rule = optimizer(flat, 0.1)
    for _ in range(steps):
        flat.zero_grad()
        model(Tensor(np.ones((3, 4), np.float32))).sum().backward()
        rule.step()
    return flat, rule


def save(world, folder, step, **options):
    flat, rule = made(steps=step)
    return save_checkpoint(
        folder, world, TrainingState.of(flat, rule), step=step, config={}, **options
    )


def test_everything_comes_back_bit_for_bit(world, tmp_path):
    flat, rule = made()
    state = TrainingState.of(flat, rule)
    path = save_checkpoint(tmp_path, world, state, step=3, config={"a": 1}, extra={"b": 2})
    other, other_rule = made(steps=0)
    found = latest_checkpoint(tmp_path)
    assert found.folder == path
    assert load_checkpoint(found, world, TrainingState.of(other, other_rule)) == 3
    np.testing.assert_array_equal(other.data, flat.data)
    assert other_rule.steps == 3
    for name, state in rule.state.items():
        np.testing.assert_array_equal(other_rule.state[name], state)
    assert found.manifest["config"] == {"a": 1}
    assert found.manifest["b"] == 2


def link_to(elsewhere, path):
    """A checkpoint that has been moved to another disk, with a link in its place."""
    if path.exists():
        path.rename(elsewhere / path.name)
    (elsewhere / path.name).mkdir(exist_ok=True)
    path.symlink_to(elsewhere / path.name)


STRAY = {
    "an unfinished one is a file": ("step-000009.tmp", lambda _, path: path.touch()),
    "and its own": ("step-000004.tmp", lambda _, path: path.touch()),
    "its own is a link": ("step-000004.tmp", link_to),
    "the step is a file": ("step-000004", lambda _, path: path.touch()),
    "a link": ("step-000004", link_to),
    "a link to nowhere": ("step-000004", lambda _, path: path.symlink_to("gone")),
    "a replaced one is a link": ("step-000004.old", link_to),
    "one to be pruned is a link": ("step-000001", link_to),
}


@pytest.mark.parametrize("what", STRAY)
def test_what_lies_about_hinders_no_save(world, tmp_path, what):
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for step in (1, 2):
        save(world, folder, step)
    name, make = STRAY[what]
    make(elsewhere, folder / name)
    moved = sorted(elsewhere.rglob("*"))
    for step in (3, 4):
        save(world, folder, step, keep=2, keep_best=False)
    assert latest_checkpoint(folder, pytest.fail).step == 4
    assert sorted(path.name for path in folder.iterdir()) == ["step-000003", "step-000004"]
    assert sorted(elsewhere.rglob("*")) == moved  # what a link led to stays


def test_the_manifest_names_every_array_and_its_slices(world, tmp_path):
    path = save(world, tmp_path, 1)
    manifest = json.loads((path / MANIFEST).read_text())
    entry = manifest["arrays"]["parameters/0.weight"]
    assert entry["shape"] == [6, 4]
    (piece,) = entry["pieces"]
    assert (piece["file"], piece["first"], piece["cuts"]) == (SHARD, 0, [])
    assert "optimizer/exp_avg_sq/1.bias" in manifest["arrays"]
    assert manifest["files"][SHARD]["bytes"] == (path / SHARD).stat().st_size


def test_the_newest_stay(world, tmp_path):
    for step in range(1, 6):
        save(world, tmp_path, step, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000004", "step-000005"]
    assert [path.suffix for path in tmp_path.iterdir()] == ["", ""]  # no .tmp


def test_the_best_stays_besides_the_newest(world, tmp_path):
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0], 1):
        save(world, tmp_path, step, keep=1, extra={"val_loss": loss})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002", "step-000005"]
    save(world, tmp_path, 6, keep=1, keep_best=False, extra={"val_loss": 0.5})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000006"]


def test_what_was_just_saved_stays_when_later_ones_are_damaged(world, tmp_path):
    for step in (1, 2, 3):
        save(world, tmp_path, step)
    for step in (2, 3):
        flip_a_byte(tmp_path / f"step-{step:06d}")
    assert latest_checkpoint(tmp_path).step == 1
    save(world, tmp_path, 2, keep=1)
    assert latest_checkpoint(tmp_path).step == 2


def test_any_bit_of_the_manifest_that_flips_is_noticed(world, tmp_path):
    path = save(world, tmp_path, 1)
    whole = (path / MANIFEST).read_bytes()
    for place in range(0, len(whole), 29):
        hurt = bytearray(whole)
        hurt[place] ^= 1
        (path / MANIFEST).write_bytes(hurt)
        with pytest.raises(CheckpointError, match="step-000001"):
            verify_checkpoint(path)


def flip_a_byte(path):
    data = bytearray((path / SHARD).read_bytes())
    data[len(data) // 2] ^= 1
    (path / SHARD).write_bytes(data)


def truncate(path):
    (path / SHARD).write_bytes((path / SHARD).read_bytes()[:-7])


DAMAGE = {
    "a flipped byte": (flip_a_byte, "checksum"),
    "a truncated shard": (truncate, "size"),
    "no shard": (lambda path: (path / SHARD).unlink(), "missing"),
    "no manifest": (lambda path: (path / MANIFEST).unlink(), "manifest.json does not exist"),
    "half a manifest": (
        lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text()[:50]),
        "damaged",
    ),
    "another format": (lambda path: (path / MANIFEST).write_text('{"format": 9, "files": {}}'), ""),
    "never renamed": (lambda path: path.rename(path.with_suffix(".tmp")), None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_a_word(world, tmp_path, damage):
    save(world, tmp_path, 1)
    newest = save(world, tmp_path, 2)
    hurt, reason = DAMAGE[damage]
    hurt(newest)
    words = []
    found = latest_checkpoint(tmp_path, words.append)
    assert found.step == 1
    if reason is None:
        assert not words
    else:
        assert len(words) == 1
        assert reason in words[0]
        assert "step-000002" in words[0]
        with pytest.raises(CheckpointError):
            verify_checkpoint(newest)


def test_an_unfinished_folder_of_the_same_step_is_replaced(world, tmp_path):
    (tmp_path / "step-000001.tmp").mkdir()
    (tmp_path / "step-000001.tmp" / "rubbish").write_text("x")
    (tmp_path / "step-000007.tmp").mkdir()  # of a run that was killed there
    path = save(world, tmp_path, 1)
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST, SHARD]
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_find(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-000009").write_text("a file")
    assert latest_checkpoint(tmp_path) is None


def test_another_model_or_optimizer_is_refused(world, tmp_path):
    save(world, tmp_path, 1)
    found = latest_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"0.weight has shape \(6, 4\).*\(8, 4\)"):
        load_checkpoint(found, world, TrainingState.of(*made(width=8)))
    with pytest.raises(CheckpointError, match="AdamW, not SGD"):
        load_checkpoint(found, world, TrainingState.of(*made(optimizer=SGD)))
    shutil.rmtree(found.folder)
    assert latest_checkpoint(tmp_path) is None
