"""Whole runs on meshes: training, stopping, resuming on another mesh, and exporting."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from quickly import mostly_slow
from small_runs import newest_weights, run_to_the_end

from ringlet.nn.models import GPT, Llama, from_pretrained
from ringlet.runtime import latest_checkpoint
from ringlet.runtime.training.export import load_model

TINY = {
    "block_size": 16, "n_layer": 4, "n_head": 4, "n_embd": 32, "batch_size": 8, "steps": 8,
    "eval_every": 4, "eval_windows": 9, "checkpoint_every": 4, "warmup_steps": 3, "dropout": 0.1,
    "accumulate": 2,
}  # fmt: skip


def trained(world, folder, **options):
    outcome, _ = run_to_the_end(world, TINY, folder, **options)
    return outcome.val_loss


MESHES = {
    "one process": (1, {}),
    "data": (2, {"zero": 0}),
    "zero 1": (2, {"zero": 1}),
    "zero 2": (3, {"zero": 2}),
    "zero 3": (4, {"zero": 3, "recompute": "blocks"}),
    "tensor": (2, {"mesh": "tp=2"}),
    "sequence": (4, {"mesh": "tp=4", "sequence": True}),
    "pipeline": (4, {"mesh": "pp=4"}),
    "context": (2, {"mesh": "cp=2", "zero": 1}),
    "interleaved": (2, {"mesh": "pp=2", "schedule": "interleaved", "chunks": 2}),
    "unequal": (3, {"mesh": "pp=3", "layers_per_stage": "1,1,2"}),
    "a v": (2, {"mesh": "pp=2", "schedule": "zb-v"}),
    "all": (8, {"mesh": "dp=2,tp=2,pp=2", "zero": 3, "recompute": "*.attend"}),
}


@pytest.fixture(scope="module")
def finished(ranks, tmp_path_factory):
    """By name of a mesh: the folder of a whole run on it, and the validation loss."""
    runs = {}

    def run(name):
        if name not in runs:
            size, options = MESHES[name]
            folder = tmp_path_factory.mktemp("run")
            losses = ranks(size).run(trained, folder=str(folder), deadline=60, **options)
            runs[name] = folder, losses[0]
        return runs[name]

    return run


@pytest.fixture(scope="module")
def whole(finished):
    """The loss and the weights of one process."""
    folder, loss = finished("one process")
    return loss, newest_weights(folder)


def continued(ranks, start, folder, name):
    """Go on from the middle of the run in `start`, on the mesh of this name; the losses."""
    halfway = Path("checkpoints") / "step-000004"
    shutil.copytree(start / halfway, folder / halfway)
    size, options = MESHES[name]
    return ranks(size).run(trained, folder=str(folder), resume=True, deadline=60, **options)


@pytest.mark.parametrize(
    "name", mostly_slow(MESHES, "zero 1", "zero 3", "sequence", "context", "unequal", "a v", "all")
)
def test_every_mesh_trains_and_any_other_goes_on(ranks, finished, whole, tmp_path, name):
    """Saved by one mesh after four steps, and continued by the next one of the table."""
    names = list(MESHES)
    other = names[(names.index(name) + 1) % len(names)]
    folder, loss = finished(name)
    assert loss == pytest.approx(whole[0], abs=1e-5)
    losses = continued(ranks, folder, tmp_path, other)
    assert losses == [pytest.approx(whole[0], abs=1e-5)] * MESHES[other][0]
    for key, array in newest_weights(tmp_path).items():
        np.testing.assert_allclose(array, whole[1][key], atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", ["zero 3", "sequence", "interleaved", "all"])
def test_a_resumed_run_has_the_same_bits(ranks, finished, tmp_path, name):
    folder, _ = finished(name)
    expected = newest_weights(folder)
    continued(ranks, folder, tmp_path, name)
    for key, array in newest_weights(tmp_path).items():
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


@pytest.mark.parametrize("name", ["one process", "all"])
def test_export_from_any_mesh(finished, whole, tmp_path, name):
    from safetensors.numpy import load_file

    checkpoint = latest_checkpoint(finished(name)[0] / "checkpoints")
    load_model(checkpoint).save_pretrained(tmp_path / "out")
    arrays = load_file(tmp_path / "out" / "model.safetensors")
    own = load_model(checkpoint)
    assert isinstance(own, GPT)
    assert set(arrays) == {name for name, _ in own.named_parameters()}
    name = "transformer.h.1.attn.c_attn.weight"
    np.testing.assert_array_equal(arrays[name], own.state_dict()[name].T)
    np.testing.assert_allclose(arrays[name].T, whole[1][name], atol=1e-4)
    with pytest.raises(FileExistsError, match="holds a model already"):
        load_model(checkpoint).save_pretrained(tmp_path / "out")


LLAMA = {"model": "llama", "n_kv_head": 2, "dropout": 0.0}


def test_a_llama_trains_on_a_mesh_goes_on_on_another_and_is_exported(ranks, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    (loss,) = ranks(1).run(trained, folder=str(whole), **LLAMA)
    ranks(4).run(trained, folder=str(cut), deadline=60, **LLAMA, mesh="tp=2,cp=2")
    shutil.rmtree(cut / "checkpoints" / "step-000008")
    rest = {**LLAMA, "mesh": "dp=2,pp=2", "zero": 1}
    losses = ranks(4).run(trained, folder=str(cut), resume=True, deadline=60, **rest)
    assert losses == [pytest.approx(loss, abs=1e-5)] * 4
    expected = newest_weights(whole)
    for key, array in newest_weights(cut).items():
        np.testing.assert_allclose(array, expected[key], atol=1e-4, err_msg=key)
    checkpoint = latest_checkpoint(cut / "checkpoints")
    load_model(checkpoint).save_pretrained(tmp_path / "out")
    loaded = from_pretrained(tmp_path / "out")
    assert isinstance(loaded, Llama)
    ids = np.arange(16)[None]
    np.testing.assert_array_equal(loaded(ids).data, load_model(checkpoint)(ids).data)
