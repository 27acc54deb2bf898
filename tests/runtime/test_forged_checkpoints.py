"""Checkpoints whose checksums are right and whose manifests are not: refused, and the one before
them is taken."""

import json
import shutil
from itertools import pairwise, product
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ringlet import comm
from ringlet.runtime import (
    CheckpointError,
    Trainer,
    latest_checkpoint,
    load_corpus,
    make_config,
    verify_checkpoint,
)
from ringlet.runtime.checkpoint.manifest import NAME, digest, sealed
from ringlet.runtime.checkpoint.pieces import tile
from ringlet.runtime.sharding.shard_spec import ShardSpec
from ringlet.runtime.training.export import check_run, load_model

TABLE = "parameters/transformer.wte.weight"
SHARD = "shard-0.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints of its steps 1 and 2."""
    folder = tmp_path_factory.mktemp("run")
    config = make_config("tiny", None, {
        "n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 8, "batch_size": 1, "steps": 2,
        "eval_windows": 1, "checkpoint_every": 1,
    })  # fmt: skip
    Trainer(config, load_corpus("pydoc", 8), comm.init(), folder).run()
    return folder / "checkpoints"


@pytest.fixture
def forge(run, tmp_path):
    """Change a manifest and its arrays, and seal it again."""

    def forged(change):
        folder = shutil.copytree(run, tmp_path / "checkpoints")
        path = folder / "step-000002"
        manifest = json.loads((path / NAME).read_text())
        del manifest["sha256"]
        arrays = load_file(path / SHARD)
        change(manifest, arrays)
        save_file(arrays, path / SHARD)
        manifest["files"][SHARD] = digest(path / SHARD)
        (path / NAME).write_bytes(sealed(manifest))
        return folder

    return forged


def at(*path, value):
    """Sets the value at a place of the manifest."""

    def change(manifest, arrays):
        for part in path[:-1]:
            manifest = manifest[part]
        manifest[path[-1]] = value

    return change


def halves(*starts):
    """The table in pieces of half its elements that begin there."""

    def change(manifest, arrays):
        entry = manifest["arrays"][TABLE]
        (piece,) = entry["pieces"]
        data = arrays.pop(TABLE).reshape(2, -1)
        for number, start in enumerate(starts):
            arrays[f"{number}"] = data[int(start) % 2]
        entry["pieces"] = [
            {**piece, "key": f"{number}", "first": int(start * data[0].size)}
            for number, start in enumerate(starts)
        ]

    return change


def shards(*cuts):
    """The table in shards of 128 rows that are cut out there."""

    def change(manifest, arrays):
        entry = manifest["arrays"][TABLE]
        (piece,) = entry["pieces"]
        data = arrays.pop(TABLE).reshape(2, -1)
        entry["pieces"] = []
        for number, cut in enumerate(cuts):
            arrays[f"{number}"] = data[number % 2]
            entry["pieces"].append({**piece, "key": f"{number}", "cuts": cut})

    return change


def in_dtype(manifest, arrays):
    arrays[TABLE] = arrays[TABLE].astype(np.int8)
    manifest["arrays"][TABLE]["dtype"] = "|i1"


def exchanged(manifest, arrays):
    """The data of another array of the same shape."""
    pieces = manifest["arrays"]["parameters/transformer.h.0.ln_1.weight"]["pieces"]
    pieces[0]["key"] = "parameters/transformer.h.0.ln_1.bias"


def longer(manifest, arrays):
    arrays[TABLE] = np.concatenate([arrays[TABLE], arrays[TABLE]])


def spare(manifest, arrays):
    """An array that no model has."""
    manifest["arrays"]["parameters/x"] = manifest["arrays"].pop(TABLE)


PIECE = ("arrays", TABLE, "pieces", 0)
SOUND = {
    "as it was": lambda manifest, arrays: None,
    "two pieces": halves(0, 1),
    "two pieces in another order": halves(1, 0),
    "two shards": shards([[0, 0, 128, 128]], [[0, 128, 256, 128]]),
}
FORGED = {
    "the first half twice": halves(0, 0),
    "a hole in the middle": halves(0, 1.5),
    "a hole at the start": halves(1, 2),
    "one half": halves(0),
    "three halves": halves(0, 1, 2),
    "shards that overlap": shards([[0, 0, 128, 128]], [[0, 64, 192, 128]]),
    "the same shard twice": shards([[0, 0, 128, 128]], [[0, 0, 128, 128]]),
    "an axis that is cut twice": shards([[0, 0, 256, 256], [0, 0, 128, 128]], [[0, 128, 256, 128]]),
    "no pieces": at("arrays", TABLE, "pieces", value=[]),
    "too much data": longer,
    "another array's data": exchanged,
    "no such data": at(*PIECE, "key", value="nope"),
    "other bytes": at("arrays", TABLE, "dtype", value="|i1"),
    "another order of bytes": at("arrays", TABLE, "dtype", value=">f4"),
    "whole numbers": in_dtype,
    "a dtype that is Python": at("arrays", TABLE, "dtype", value="(1,f4"),
    "a start that is no number": at(*PIECE, "first", value=True),
    "a start beyond all": at(*PIECE, "first", value=10**400),
    "a view of many axes": at(*PIECE, "view", value=[256, 8] + [1] * 100_000),
    "a view of long numbers": at(*PIECE, "view", value=[10**4000] * 100),
    "a shape of many axes": at("arrays", TABLE, "shape", value=[1] * 100),
    "a step beyond all": at("step", value=10**30),
    "steps below none": at("optimizer", "steps", value=-3),
    "extras that are not there": at("extras", value={
        "extras:x:y": {"file": SHARD, "shape": [10**13], "dtype": "<f4"}}),
    "a name that is none": spare,
    "a replica of no number": at("arrays", "a@x/b", value={
        "shape": [0], "dtype": "<f4", "pieces": []}),
    **{f"vocab_size {value}": at("vocab_size", value=value)
       for value in ("x", 10**15, -5, True, 0, None, 1.5, [256], 255)},
    **{f"as_bytes {value}": at("as_bytes", value=value) for value in ("x", None, 1)},
    **{f"elapsed_s {value}": at("elapsed_s", value=value) for value in ("x", None, [], inf, nan)},
    **{f"{name} {value}": at("config", name, value=value) for name, value in (
        ("n_head", 0), ("n_layer", -1), ("n_layer", 10**9), ("n_layer", 2), ("n_embd", 4 * 10**9),
        ("n_embd", 6), ("block_size", 10**12), ("experts", 10**9), ("model", "llama"),
        ("zzz", 1), ("learning_rate", nan), ("dropout", inf), ("seed", 10**40), ("seed", [[]]),
    )},
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND)
def test_however_it_is_cut_it_is_the_same(forge, run, case):
    found = latest_checkpoint(forge(SOUND[case]), pytest.fail, check_run)
    assert found.step == 2
    expected = load_model(verify_checkpoint(run / "step-000002")).state_dict()
    for name, array in load_model(found).state_dict().items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("case", FORGED)
def test_what_is_forged_is_refused_and_the_one_before_is_taken(forge, case):
    folder, words = forge(FORGED[case]), []
    assert latest_checkpoint(folder, words.append, check_run).step == 1
    (word,) = words
    assert "step-000002" in word
    assert len(word) < 500
    with pytest.raises(CheckpointError, match="step-000002"):
        load_model(verify_checkpoint(folder / "step-000002"))


@st.composite
def boxes(draw):
    """A grid of 1 to 3 axes, and boxes in it: often a tiling, often nearly one."""
    view = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    ends = [sorted({0, n, *draw(st.lists(st.integers(0, n), max_size=2))}) for n in view]
    found = list(product(*map(pairwise, ends)))
    for _ in range(draw(st.integers(0, 2))):
        box = draw(st.sampled_from(found))
        axis = draw(st.integers(0, len(view) - 1))
        start, stop = sorted(draw(st.tuples(*[st.integers(0, view[axis])] * 2)))
        changed = [*box[:axis], (start, stop), *box[axis + 1 :]]
        found = [*found, changed] if draw(st.booleans()) else [*found[1:], changed]
    return view, found


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(boxes())
def test_boxes_tile_a_grid_if_each_element_is_in_one(case):
    view, found = case
    counts, specs = np.zeros(view, int), []
    for box in found:
        counts[tuple(slice(*side) for side in box)] += 1
        cuts = [[n, *side, view[n]] for n, side in enumerate(box) if side != (0, view[n])]
        specs.append(ShardSpec.from_json(view, {"view": view, "cuts": cuts}))
    assert tile(view, specs) == (counts == 1).all()
