"""Freezing and LoRA: what learns, what stays, and what is saved."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringlet import nn
from ringlet.nn import FlatParameters
from ringlet.nn.finetune import (
    LoRALinear,
    add_lora,
    freeze,
    load_lora,
    merge_lora,
    save_lora,
    unfreeze,
)
from ringlet.nn.models import GPT, GPTConfig, Llama, LlamaConfig
from ringlet.nn.optim import AdamW
from ringlet.runtime import Mesh, MeshError, parallelize

IDS = np.random.default_rng(0).integers(0, 11, (2, 6))
SIZES = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12}


def llama():
    return Llama(LlamaConfig(11, num_attention_heads=2, **SIZES))


def trained(model, steps=3):
    """The names of what has changed in a few steps; weight decay would change all that it may."""
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    optimizer = AdamW(FlatParameters(model), 1e-2, weight_decay=0.5)
    for _ in range(steps):
        model.zero_grad()
        model(IDS, IDS).backward()
        optimizer.step()
    return {n for n, p in model.named_parameters() if not np.array_equal(p.data, before[n])}


def test_what_is_frozen_stays():
    model = GPT(GPTConfig(11, 8, 2, 2, 8))
    frozen = freeze(model, "transformer.w?e.*", "transformer.h.0.*")
    names = {name for name, _ in model.named_parameters()}
    assert trained(model) == names - set(frozen)
    assert "transformer.wte.weight" in frozen
    unfreeze(model, "*")
    assert trained(model) == names
    with pytest.raises(ValueError, match=r"no parameter matches 'layers'; the first one is"):
        freeze(model, "layers")


def test_lora_learns_and_nothing_else_does():
    model, whole = llama(), llama()
    paths = add_lora(model, "*.q_proj", "*.down_proj", rank=2)
    assert len(paths) == 4
    np.testing.assert_array_equal(model(IDS).data, whole(IDS).data)
    parts = {f"{path}.lora_{part}.weight" for path in paths for part in "AB"}
    assert trained(model) == parts
    learned = model(IDS).data
    assert np.abs(learned - whole(IDS).data).max() > 1e-3
    assert merge_lora(model) == paths
    np.testing.assert_allclose(model(IDS).data, learned, atol=1e-5)
    assert set(model.state_dict()) == set(whole.state_dict())


def test_an_adapter_is_saved_and_loaded(tmp_path):
    model = llama()
    add_lora(model, "model.layers.1.*", rank=3, alpha=4.0)
    trained(model)
    save_lora(model, tmp_path)
    arrays = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"  # as peft names it
    assert arrays[name].shape == (3, 8)
    again = llama()
    load_lora(again, tmp_path)
    np.testing.assert_array_equal(again(IDS).data, model(IDS).data)
    with pytest.raises(FileExistsError, match="an adapter already"):
        save_lora(model, tmp_path)


def edit(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def adapter(folder, *calls, **values):
    """A Llama's adapter of several calls of add_lora; the model that has it."""
    model = llama()
    for pattern, options in calls or [("*.[qv]_proj", {"rank": 2, "alpha": 4.0})]:
        add_lora(model, pattern, **options)
    trained(model)
    save_lora(model, folder)
    edit(folder, **values)
    return model


@pytest.mark.parametrize("second", [(2, 9.0), (3, 4.0), (3, 5.0)])
def test_each_call_s_rank_and_alpha_are_kept(tmp_path, second):
    how = {"rank": second[0], "alpha": second[1]}
    calls = [("*.q_proj", {"rank": 2, "alpha": 4.0}), ("model.layers.0.mlp.*", how)]
    model = adapter(tmp_path, *calls)
    again = llama()
    load_lora(again, tmp_path)
    np.testing.assert_array_equal(again(IDS).data, model(IDS).data)
    assert all((layer.rank, layer.alpha) in {(2, 4.0), second}
               for layer in again.modules() if isinstance(layer, LoRALinear))  # fmt: skip


def test_a_path_that_is_the_end_of_another_keeps_its_own(tmp_path):
    def make():
        return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3)))

    model, again = make(), make()
    add_lora(model, "1.0", rank=2)
    add_lora(model, "0", rank=1)
    save_lora(model, tmp_path)
    load_lora(again, tmp_path)
    assert (again[0].rank, again[1][0].rank) == (1, 2)


def test_a_second_call_leaves_the_first_one_learning():
    model = llama()
    first = add_lora(model, "model.layers.0.*")
    assert len(first) == 7
    second = add_lora(model, "model.layers.*.q_proj")  # nothing inside what was added
    assert second == ["model.layers.1.self_attn.q_proj"]
    parts = {f"{path}.lora_{part}.weight" for path in first + second for part in "AB"}
    assert trained(model) == parts


SCALES = {  # by which q's and v's change is multiplied, instead of 2
    "as saved": ({}, 2, 2),
    "a root": ({"use_rslora": True}, 4 / 2**0.5, 4 / 2**0.5),
    "an end": ({"alpha_pattern": {"v_proj": 6}}, 2, 3),
    "an expression": ({"alpha_pattern": {r".*[0-9]\.self_attn\.q_proj": 6}}, 3, 2),
    "all of a path": ({"alpha_pattern": {"^model.layers.[01].self_attn.v_proj": 6}}, 2, 3),
    "no path's beginning": ({"alpha_pattern": {"model": 6, "_proj": 7, "roj": 8}}, 2, 2),
    "the first that fits": ({"alpha_pattern": {"q_proj": 6, ".*": 8}}, 3, 4),
    "both": ({"alpha_pattern": {"v_proj": 6}, "use_rslora": True}, 4 / 2**0.5, 6 / 2**0.5),
    "what means nothing": ({"fan_in_fan_out": True, "init_lora_weights": "gaussian",
        "megatron_core": "x", "qalora_group_size": 16, "use_dora": False, "bias": None}, 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("case", SCALES)
def test_adapters_of_peft_mean_what_they_mean_there(tmp_path, case):
    values, q, v = SCALES[case]
    model = adapter(tmp_path, **values)
    again = llama()
    load_lora(again, tmp_path)
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            layer.alpha = layer.rank * (q if layer.path.endswith("q_proj") else v)
    np.testing.assert_allclose(again(IDS).data, model(IDS).data, atol=1e-6)


REFUSED = {
    "another kind": ({"peft_type": "IA3"}, "is of a 'IA3'"),
    "biases": ({"bias": "lora_only"}, "'bias': 'lora_only'"),
    "a bias of its own": ({"lora_bias": True}, "'lora_bias': True"),
    "magnitudes": ({"use_dora": True}, "'use_dora'"),
    "singular vectors": ({"init_lora_weights": "pissa"}, "'init_lora_weights': 'pissa'"),
    "a few of them": ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4'"),
    "orthogonal ones": ({"init_lora_weights": "olora"}, "'olora'"),
    "a start of lists": ({"init_lora_weights": []}, "'init_lora_weights'"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "'modules_to_save'"),
    "tokens": ({"trainable_token_indices": [1]}, "'trainable_token_indices'"),
    "repeated layers": ({"layer_replication": [[0, 1]]}, "'layer_replication'"),
    "what is not known yet": ({"use_tomorrow": True}, "'use_tomorrow'"),
    "a rank that is none": ({"r": 0}, "rank 0"),
    "a rank that is true": ({"r": True}, "rank True"),
    "an alpha that is none": ({"lora_alpha": "x"}, "alpha 'x'"),
    "an alpha beyond all": ({"lora_alpha": float("nan")}, "alpha nan"),
    "a dropout of all": ({"lora_dropout": 1.0}, "lora_dropout 1.0"),
    "patterns that are none": ({"rank_pattern": [1]}, "rank_pattern"),
    "a pattern that is none": ({"alpha_pattern": {"(": 1}}, r"pattern '\('"),
    "a pattern without end": ({"alpha_pattern": {"(.+)+!": 1}}, "pattern"),
    "ranks that are none": ({"rank_pattern": {"q_proj": None}}, "rank None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_adapters_are_refused_by_name(tmp_path, case):
    values, words = REFUSED[case]
    adapter(tmp_path, **values)
    model = llama()
    before = repr(model)
    with pytest.raises(ValueError, match=rf"adapter_config\.json.*{words}"):
        load_lora(model, tmp_path)
    assert repr(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    adapter(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    arrays = load_file(weights)
    name = next(iter(arrays))
    for changed, kind, words in (
        ({**arrays, "base_model.model.lm_head.weight": arrays[name]}, KeyError, "no pairs"),
        ({n: a for n, a in arrays.items() if n != name}, KeyError, "no pairs"),
        ({**arrays, name: np.ones((1, 1), np.float32)}, KeyError, "wrong shape"),
        ({n.replace("layers", "blocks"): a for n, a in arrays.items()}, ValueError, "no Linear"),
        ({n.replace(".0.", ".*."): a for n, a in arrays.items()}, ValueError, "no Linear"),
        ({}, KeyError, "no LoRA matrices"),
    ):
        save_file(changed, weights)
        model = llama()
        with pytest.raises(kind, match=words):
            load_lora(model, tmp_path)
        assert "lora" not in repr(model)


@pytest.mark.parametrize("training", [True, False])
def test_new_layers_are_in_the_mode_of_those_they_replace(tmp_path, training):
    adapter(tmp_path, ("*.[qv]_proj", {"dropout": 0.5}))
    for change in (
        lambda m: load_lora(m, tmp_path),
        lambda m: add_lora(m, "*.q_proj", dropout=0.5),
    ):
        model = llama()
        model.train(training)
        change(model)
        assert {module.training for module in model.modules()} == {training}
        merge_lora(model)
        assert {module.training for module in model.modules()} == {training}


def test_several_dropouts_do_not_fit_into_an_adapter(tmp_path):
    with pytest.raises(ValueError, match=r"have dropouts \[0.0, 0.5\], and an adapter has one"):
        adapter(tmp_path, ("*.q_proj", {}), ("*.v_proj", {"dropout": 0.5}))


def test_impossible_wishes_are_refused():
    with pytest.raises(ValueError, match="no Linear matches 'query'"):
        add_lora(llama(), "query")
    with pytest.raises(ValueError, match="rank is 0"):
        add_lora(llama(), "*.q_proj", rank=0)
    with pytest.raises(ValueError, match="the matrix of lm_head is shared with another layer"):
        add_lora(GPT(GPTConfig(11, 8, 1, 2, 8)), "lm_head")
    with pytest.raises(ValueError, match="no LoRA layers"):
        save_lora(llama(), "nowhere")


def frozen_on_a_mesh(world):
    model = GPT(GPTConfig(11, 8, 1, 2, 8))
    nn.freeze(model, "*.bias")
    try:
        parallelize(model, Mesh(world))
    except MeshError as error:
        return str(error)
    return ""


def test_a_mesh_refuses_frozen_parameters(ranks):
    assert "is frozen" in ranks(1).run(frozen_on_a_mesh)[0]
