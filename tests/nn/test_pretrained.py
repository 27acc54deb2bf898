"""Folders of models: what is loaded, saved, and refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringlet.nn.models import GPT, GPTConfig, PretrainedError

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=8)


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewrite(folder, change):
    arrays = load_file(folder / "model.safetensors")
    save_file(change(arrays), folder / "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    GPT(CONFIG, seed=3).save_pretrained(tmp_path / "a")
    return tmp_path / "a"


def assert_same(model, other):
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)


def test_a_saved_model_is_loaded(folder):
    model = GPT.from_pretrained(str(folder))
    assert model.config == CONFIG
    assert_same(model, GPT(CONFIG, seed=3))
    arrays = load_file(folder / "model.safetensors")
    assert arrays["transformer.h.0.mlp.c_fc.weight"].shape == (8, 32)  # GPT-2's: (in, out)
    assert "lm_head.weight" not in arrays


@pytest.mark.parametrize("shard_bytes", [1, 900, 2000])
def test_shards(tmp_path, shard_bytes):
    model = GPT(CONFIG, seed=3)
    model.save_pretrained(tmp_path, shard_bytes)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in model.state_dict().values())
    for file in files:
        arrays = load_file(tmp_path / file)
        assert sum(a.nbytes for a in arrays.values()) <= shard_bytes or len(arrays) == 1
    assert_same(GPT.from_pretrained(tmp_path), model)


def test_a_config_keeps_what_it_said(folder, tmp_path):
    edit(folder, bos_token_id=7, dtype="bfloat16", architectures=["GPT2Model"])
    GPT.from_pretrained(folder).save_pretrained(tmp_path / "b")
    values = json.loads((tmp_path / "b" / "config.json").read_text())
    assert values["bos_token_id"] == 7
    assert values["torch_dtype"] == "float32"
    assert "dtype" not in values
    assert values["architectures"] == ["GPT2LMHeadModel"]


def test_files_of_the_model_without_its_head(folder):
    """As the hub's gpt2: no prefix, and masks that are no parameters."""

    def bare(arrays):
        plain = {name.removeprefix("transformer."): array for name, array in arrays.items()}
        return plain | {"h.0.attn.bias": np.ones((1, 1, 6, 6), np.float32)}

    rewrite(folder, bare)
    assert_same(GPT.from_pretrained(folder), GPT(CONFIG, seed=3))


def test_halves_are_loaded_as_float32(folder):
    rewrite(folder, lambda arrays: {k: a.astype(np.float16) for k, a in arrays.items()})
    weight = GPT.from_pretrained(folder).transformer.wte.weight.data
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, GPT(CONFIG, seed=3).transformer.wte.weight.data, atol=1e-4)


def without(name):
    def change(arrays):
        del arrays[name]
        return {**arrays, "extra": np.ones(1, np.float32)}

    return change


def test_what_is_missing_unexpected_or_misshaped_is_listed(folder):
    rewrite(folder, without("transformer.h.0.ln_1.weight"))
    with pytest.raises(KeyError, match=r"missing: transformer.h.0.ln_1.weight; unexpected: extra"):
        GPT.from_pretrained(folder)
    assert GPT.from_pretrained(folder, strict=False).transformer.h[0].ln_1.weight.data.min() == 1
    edit(folder, n_positions=7)
    with pytest.raises(KeyError, match=r"wpe.weight: \(6, 8\) for \(7, 8\)"):
        GPT.from_pretrained(folder, strict=False)


REFUSED = {
    "another model": ({"model_type": "llama"}, "is of a 'llama', not of a 'gpt2'"),
    "an activation": ({"activation_function": "relu"}, 'activation_function: "relu"; this model'),
    "no width": ({"n_embd": None}, "n_embd: None"),
    "layers": ({"n_layer": -1}, "n_layer: -1; it must be"),
    "an inner width": ({"n_inner": 5}, "n_inner is 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_is_not_built_here_is_refused(folder, case):
    values, words = REFUSED[case]
    edit(folder, **values)
    with pytest.raises(PretrainedError, match=words):
        GPT.from_pretrained(folder)


def test_folders_without_a_model_are_refused(folder, tmp_path):
    with pytest.raises(PretrainedError, match=r"config.json does not exist"):
        GPT.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PretrainedError, match=r"neither .* pytorch_model.bin is a pickle"):
        GPT.from_pretrained(folder)
    with pytest.raises(FileExistsError, match="holds a model already"):
        GPT(CONFIG).save_pretrained(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(PretrainedError, match="is not a JSON object"):
        GPT.from_pretrained(folder)


INDEXES = {
    "no map": ({}, "needs a weight_map"),
    "a file elsewhere": ({"weight_map": {"x": "../model.safetensors"}}, "files beside it"),
    "a file that is not there": ({"weight_map": {"x": "other"}}, "has no other, which its index"),
    "an array that is not there": (
        {"weight_map": {"x": "one.safetensors"}},
        "has no x in one.safetensors",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_wrong_index_is_refused(folder, case):
    index, words = INDEXES[case]
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PretrainedError, match=words):
        GPT.from_pretrained(folder)
