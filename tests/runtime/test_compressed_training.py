"""Training with compressed gradients and activations: near the plain result, in fewer bytes."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from quickly import mostly_slow
from small_runs import newest_weights, run_to_the_end

from ringlet.runtime import (
    ConfigError,
    MeshError,
    Trainer,
    check_fit,
    latest_checkpoint,
    load_corpus,
    make_config,
)
from ringlet.runtime.checkpoint.restore import CheckpointReader

TINY = {
    "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, "batch_size": 8, "steps": 24,
    "eval_every": 12, "eval_windows": 20, "checkpoint_every": 12, "warmup_steps": 3,
    "learning_rate": 3e-3,
}  # fmt: skip

GRADIENTS = ["float16", "bfloat16", "int8", "topk:0.1", "powersgd:2"]
REMEMBERING = ["topk:0.1", "powersgd:2"]
"""What they leave out of one step goes into the next."""


def trained(world, folder=None, **options):
    """[validation loss, bytes that this rank sent in the last step]"""
    outcome, rows = run_to_the_end(world, TINY, folder, **options)
    return [outcome.val_loss, rows[-1]["comm_bytes"] if rows else None]


@pytest.fixture(scope="module")
def plain(ranks):
    """By mesh: loss and bytes without compression."""
    return {mesh: ranks(2, "ipc").run(trained, mesh=mesh)[0] for mesh in ("dp=2", "tp=2", "pp=2")}


@pytest.mark.parametrize("compress", mostly_slow(GRADIENTS, "bfloat16", "int8", "powersgd:2"))
def test_compressed_gradients_learn_as_much_with_fewer_bytes(ranks, plain, compress):
    loss, sent = ranks(2, "ipc").run(trained, compress=compress)[0]
    slack = 0.02 if "16" in compress or compress == "int8" else 0.5
    assert abs(loss - plain["dp=2"][0]) < slack
    assert sent < plain["dp=2"][1] * (0.55 if "16" in compress else 0.5)


@pytest.mark.parametrize("codec", mostly_slow(["float16", "bfloat16", "int8"], "int8"))
@pytest.mark.parametrize(
    ("mesh", "options"),
    [("tp=2", {}), ("tp=2", {"sequence": True}), ("pp=2", {"recompute": "blocks"})],
)
def test_compressed_activations(ranks, plain, mesh, options, codec):
    loss, sent = ranks(2, "ipc").run(trained, mesh=mesh, compress_activations=codec, **options)[0]
    assert abs(loss - plain[mesh][0]) < 0.05
    if not options.get("sequence"):
        assert sent < plain[mesh][1]


@pytest.mark.parametrize(
    ("mesh", "compress"),
    [("dp=3", "int8"), ("dp=3", "powersgd:2")]
    + [
        pytest.param(mesh, compress, marks=pytest.mark.slow)
        for mesh in ("dp=3", "dp=2,tp=2", "dp=2,pp=2")
        for compress in REMEMBERING
        if (mesh, compress) != ("dp=3", "powersgd:2")
    ],
)
def test_a_resumed_run_has_the_same_bits(ranks, tmp_path, mesh, compress):
    size = 3 if mesh == "dp=3" else 4
    options = {"mesh": mesh, "compress": compress, "steps": 8, "checkpoint_every": 4}
    ranks(size).run(trained, folder=str(tmp_path / "a"), **options)
    halfway = Path("checkpoints") / "step-000004"
    shutil.copytree(tmp_path / "a" / halfway, tmp_path / "b" / halfway)
    ranks(size).run(trained, folder=str(tmp_path / "b"), resume=True, **options)
    for name, array in newest_weights(tmp_path / "a").items():
        np.testing.assert_array_equal(newest_weights(tmp_path / "b")[name], array, err_msg=name)


def residuals(checkpoint, name):
    """The sum of what all ranks have lost of a parameter."""
    names = [key for key in checkpoint.manifest["arrays"] if key.startswith("residual")]
    reader = CheckpointReader(checkpoint)
    return sum(reader.whole(key) for key in names if key.endswith(f"/{name}"))


def reloaded(world, folder, **options):
    config = make_config("tiny", None, {**TINY, **options})
    made = Trainer(config, load_corpus("pydoc", config.block_size), world, Path(folder))
    made.resume()
    (family,) = made.parallel.gradient_groups
    name = "transformer.h.1.mlp.c_fc.weight"
    (slot,) = (slot for slot in family.reducer.shard.slots if slot.name == name)
    own = family.reducer.residual[slot.start : slot.stop].copy()
    return family.group.all_reduce(own).reshape(slot.shape)


def test_what_was_lost_is_not_forgotten_on_another_number_of_ranks(ranks, tmp_path):
    ranks(3).run(trained, folder=str(tmp_path), compress="topk", mesh="dp=3")
    total = residuals(
        latest_checkpoint(tmp_path / "checkpoints"), "transformer.h.1.mlp.c_fc.weight"
    )
    assert np.abs(total).max() > 0
    found = ranks(2).run(reloaded, folder=str(tmp_path), compress="topk", mesh="dp=2", steps=30)[0]
    np.testing.assert_allclose(found, total, rtol=1e-5, atol=1e-9)


def chosen(world):
    """The compressor that a run has chosen, and what this rank has said of it."""
    notes, config = [], make_config("tiny", None, {**TINY, "compress": "auto"})
    corpus = load_corpus("pydoc", config.block_size)
    made = Trainer(config, corpus, world, warn=notes.append)
    return [made.parallel.options.compress, notes]


def test_auto_says_what_it_has_chosen(ranks):
    why = "compress auto sums gradients plainly: the 2 ranks share memory"
    assert ranks(2).run(chosen) == [["", [why]], ["", []]]


@pytest.mark.slow
def test_auto_takes_a_codec_for_a_slow_link(two_hosts):
    (first, notes), (second, silent) = two_hosts((0, 1), 100).run(chosen)
    assert (first, second, silent) == ("int8", "int8", [])
    assert re.fullmatch("compress auto sums gradients as int8: the link has [0-9]+ Mbit/s", *notes)


REFUSED = {
    "no such compressor": ({"compress": "zip"}, "topk\\[:ratio\\], powersgd"),
    "a bad ratio": ({"compress": "topk:7"}, "at most 1"),
    "no such codec": ({"compress_activations": "int4", "mesh": "tp=2"}, "float16, bfloat16, int8"),
    "ZeRO": ({"compress": "int8", "zero": 1}, "zero=0 and ep=1"),
    "nobody to send to": ({"compress": "int8", "mesh": "tp=2"}, "no gradients travel"),
    "no activations": ({"compress_activations": "int8"}, "tp=1 and pp=1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(case):
    options, words = REFUSED[case]
    with pytest.raises((ConfigError, MeshError), match=words):
        check_fit(make_config("tiny", None, {**TINY, **options}), 2)
