"""Freezing and LoRA: what learns, what stays, and what is saved."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from ringlet import nn
from ringlet.nn import FlatParameters
from ringlet.nn.finetune import add_lora, freeze, load_lora, merge_lora, save_lora, unfreeze
from ringlet.nn.models import GPT, GPTConfig, Llama, LlamaConfig
from ringlet.nn.optim import AdamW
from ringlet.runtime import Mesh, MeshError, parallelize

IDS = np.random.default_rng(0).integers(0, 11, (2, 6))
SIZES = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12}


def llama():
    return Llama(LlamaConfig(11, num_attention_heads=2, **SIZES))


def trained(model, steps=3):
    """The names of what has changed in a few steps; weight decay would change all that it may."""
    before = {name: array.copy() for name, array in model.state_dict().items()}
    optimizer = AdamW(FlatParameters(model), 1e-2, weight_decay=0.5)
    for _ in range(steps):
        model.zero_grad()
        model(IDS, IDS).backward()
        optimizer.step()
    return {n for n, array in model.state_dict().items() if not np.array_equal(array, before[n])}


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
