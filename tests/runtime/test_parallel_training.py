"""Whole runs on meshes: training, stopping, resuming on another mesh, and exporting."""

from pathlib import Path

import numpy as np
import pytest

from ringlet.nn.models import GPT
from ringlet.runtime import Trainer, latest_checkpoint, load_corpus, make_config
from ringlet.runtime.export import export_huggingface, load_model

TINY = {
    "block_size": 16, "n_layer": 4, "n_head": 4, "n_embd": 32, "batch_size": 8, "steps": 12,
    "eval_every": 6, "eval_windows": 21, "checkpoint_every": 6, "warmup_steps": 3, "dropout": 0.1,
    "accumulate": 2,
}  # fmt: skip


def trainer(world, folder, **options):
    config = make_config("tiny", None, {**TINY, **options})
    corpus = load_corpus("pydoc", config.block_size)
    return Trainer(config, corpus, world, folder and Path(folder))


def trained(world, folder, **options):
    made = trainer(world, folder, **options)
    return made.run().val_loss


def resumed(world, folder, **options):
    made = trainer(world, folder, **options)
    made.resume()
    return made.run().val_loss


def weights(folder):
    """The newest checkpoint's, whole."""
    return load_model(latest_checkpoint(folder / "checkpoints")).state_dict()


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
    "all": (8, {"mesh": "dp=2,tp=2,pp=2", "zero": 3, "recompute": "*.attend"}),
}


@pytest.fixture(scope="module")
def whole(ranks, tmp_path_factory):
    """A run of one process."""
    folder = tmp_path_factory.mktemp("whole")
    return ranks(1).run(trained, folder=str(folder))[0], weights(folder)


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_trains_and_any_other_goes_on(ranks, whole, tmp_path, name):
    """Saved by one mesh after six steps, and continued by the next one of the table."""
    names = list(MESHES)
    size, options = MESHES[name]
    other_size, other = MESHES[names[(names.index(name) + 1) % len(names)]]
    ranks(size).run(trained, folder=str(tmp_path), deadline=60, **options)
    for step in tmp_path.glob("checkpoints/step-000012"):
        for file in step.iterdir():
            file.unlink()
        step.rmdir()
    losses = ranks(other_size).run(resumed, folder=str(tmp_path), deadline=60, **other)
    assert losses == [pytest.approx(whole[0], abs=1e-5)] * other_size
    for key, array in weights(tmp_path).items():
        np.testing.assert_allclose(array, whole[1][key], atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", ["zero 3", "sequence", "interleaved", "all"])
def test_a_resumed_run_has_the_same_bits(ranks, tmp_path, name):
    size, options = MESHES[name]
    ranks(size).run(trained, folder=str(tmp_path), deadline=60, **options)
    expected = weights(tmp_path)
    for file in (tmp_path / "checkpoints" / "step-000012").iterdir():
        file.unlink()
    ranks(size).run(resumed, folder=str(tmp_path), deadline=60, **options)
    for key, array in weights(tmp_path).items():
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


@pytest.mark.parametrize("name", ["one process", "all"])
def test_export_from_any_mesh(ranks, whole, tmp_path, name):
    from safetensors.numpy import load_file

    size, options = MESHES[name]
    ranks(size).run(trained, folder=str(tmp_path), deadline=60, **options)
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    export_huggingface(checkpoint, tmp_path / "out")
    arrays = load_file(tmp_path / "out" / "model.safetensors")
    own = load_model(checkpoint)
    assert isinstance(own, GPT)
    assert set(arrays) == set(own.state_dict())
    name = "transformer.h.1.attn.c_attn.weight"
    np.testing.assert_array_equal(arrays[name], own.state_dict()[name].T)
    np.testing.assert_allclose(arrays[name].T, whole[1][name], atol=1e-4)
    with pytest.raises(FileExistsError, match="holds a model already"):
        export_huggingface(checkpoint, tmp_path / "out")
