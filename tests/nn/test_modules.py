"""Modules, layers, initial values, dropout and errors."""

import numpy as np
import pytest

from ringlet.nn import (
    GELU,
    CausalSelfAttention,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    ModuleDict,
    ModuleList,
    Parameter,
    Sequential,
    Tensor,
    TransformerDecoderLayer,
)
from ringlet.nn import random as nn_random
from ringlet.nn.models import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8)


class Tied(Module):
    def __init__(self):
        self.one = Linear(3, 3)
        self.two = Linear(3, 3)
        self.two.weight = self.one.weight


def test_names_are_paths_and_tied_parameters_appear_once():
    names = [name for name, _ in Tied().named_parameters()]
    assert names == ["one.weight", "one.bias", "two.bias"]
    assert Tied().num_parameters() == 15
    paths = [path for path, _ in GPT(SMALL).named_modules()]
    assert "transformer.h.1.attn.c_attn" in paths


def test_state_dicts_go_round():
    first, second = GPT(SMALL, seed=1), GPT(SMALL, seed=2)
    second.load_state_dict(first.state_dict())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
        assert not np.shares_memory(a.data, b.data)


def test_a_state_that_does_not_fit_lists_everything_and_changes_nothing():
    model = Sequential(Linear(2, 3), Linear(3, 1))
    before = {name: array.numpy().copy() for name, array in model.state_dict().items()}
    state = {"0.weight": np.ones((3, 3)), "0.bias": np.ones(3), "9.bias": np.ones(1)}
    with pytest.raises(KeyError) as refused:
        model.load_state_dict(state)
    text = str(refused.value)
    assert "missing: 1.weight, 1.bias" in text
    assert "unexpected: 9.bias" in text
    assert "0.weight: (3, 3) for (3, 2)" in text
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    model.load_state_dict({"0.bias": np.ones(3)}, strict=False)
    assert (model[0].bias.data == 1).all()


def test_training_mode_reaches_everything():
    model = GPT(SMALL)
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    model.train()
    assert all(module.training for module in model.modules())


def test_repr_shows_the_tree():
    model = Sequential(Linear(2, 3), GELU("tanh"), ModuleList([Dropout(0.1)]))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Linear(2, 3, bias=True)\n"
        "  (1): GELU(approximate='tanh')\n"
        "  (2): ModuleList(\n"
        "    (0): Dropout(p=0.1)\n"
        "  )\n"
        ")"
    )
    assert "LayerNorm(8, eps=1e-05)" in repr(GPT(SMALL))
    assert "Embedding(11, 8)" in repr(GPT(SMALL))
    assert "PackedAttention(heads=2)" in repr(GPT(SMALL))


def test_initial_values_depend_on_seed_and_name_only():
    small, deep = GPT(SMALL, seed=5), GPT(GPTConfig(**{**vars(SMALL), "vocab_size": 20}), seed=5)
    name = "transformer.h.1.mlp.c_fc.weight"
    np.testing.assert_array_equal(small.state_dict()[name], deep.state_dict()[name])
    other = "transformer.h.0.mlp.c_fc.weight"
    assert not np.array_equal(small.state_dict()[name], small.state_dict()[other])
    assert not np.array_equal(small.state_dict()[name], GPT(SMALL, seed=6).state_dict()[name])
    assert not np.array_equal(Sequential(Linear(4, 4), Linear(4, 4))[0].weight.data, 0)


def test_gpt2s_deviations():
    config = GPTConfig(vocab_size=500, block_size=64, n_layer=8, n_head=4, n_embd=64)
    state = GPT(config).state_dict()
    assert abs(state["transformer.wte.weight"].std() - 0.02) < 1e-3
    assert abs(state["transformer.h.3.mlp.c_proj.weight"].std() - 0.02 / 4) < 5e-4
    assert (state["transformer.h.0.ln_1.weight"] == 1).all()
    assert (state["transformer.h.0.attn.c_attn.bias"] == 0).all()


# -- layers ---------------------------------------------------------------------------------------


def test_linear_and_embedding_and_layer_norm():
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    linear = Linear(4, 5)
    np.testing.assert_allclose(
        linear(Tensor(x)).data, x @ linear.weight.data.T + linear.bias.data, rtol=1e-5, atol=1e-6
    )
    assert Linear(4, 5, bias=False).bias is None
    table = Embedding(7, 3)
    np.testing.assert_array_equal(table(np.array([[6, 0]])).data, table.weight.data[[[6, 0]]])
    norm = LayerNorm(4)(Tensor(x)).data
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm, expected, atol=1e-5)


def test_attention_sees_the_past_only():
    layer = CausalSelfAttention(8, 2)
    x = np.random.default_rng(0).standard_normal((1, 5, 8)).astype(np.float32)
    before = layer(Tensor(x)).data.copy()
    x[0, 3:] += 1
    after = layer(Tensor(x)).data
    np.testing.assert_array_equal(before[0, :3], after[0, :3])
    assert not np.allclose(before[0, 3:], after[0, 3:])


# -- dropout --------------------------------------------------------------------------------------


def masks(first, count, step=3, seed=1, layer=None):
    layer = layer or Dropout(0.5)
    layer.path = layer.path or "here"
    layer._named = True
    with nn_random.scope(seed=seed, step=step, first_sample=first):
        return layer(Tensor(np.ones((count, 50), np.float32))).data


def test_a_batch_that_is_split_draws_the_masks_of_the_whole():
    whole = masks(0, 6)
    np.testing.assert_array_equal(np.concatenate([masks(0, 2), masks(2, 3), masks(5, 1)]), whole)
    assert set(np.unique(whole)) == {0.0, 2.0}
    assert not np.array_equal(whole[0], whole[1])


def test_masks_depend_on_seed_step_and_layer():
    other = Dropout(0.5)
    other.path = "there"
    variants = [masks(0, 2), masks(0, 2, step=4), masks(0, 2, seed=2), masks(0, 2, layer=other)]
    for number, one in enumerate(variants):
        for another in variants[:number]:
            assert not np.array_equal(one, another)


def test_dropout_keeps_the_mean_and_does_nothing_in_evaluation():
    layer = Dropout(0.3)
    x = Tensor(np.ones((20, 1000), np.float32))
    assert abs(layer(x).data.mean() - 1) < 0.02
    assert not np.array_equal(layer(x).data, layer(x).data)  # outside a scope each call differs
    layer.eval()
    assert layer(x) is x
    with pytest.raises(ValueError, match=r"is 1\.5"):
        Dropout(1.5).train()(x)


# -- errors ---------------------------------------------------------------------------------------


def notes(error):
    return "\n".join(getattr(error.value, "__notes__", []))


def test_errors_name_both_shapes_and_the_layers_path():
    model = GPT(SMALL)
    model.transformer.h[1].mlp.c_fc = Linear(9, 32)
    model.assign_paths()
    with pytest.raises(ValueError, match=r"\(1, 4, 8\).*\(32, 9\)") as refused:
        model(np.zeros((1, 4), int))
    assert "transformer.h.1.mlp.c_fc (Linear)" in notes(refused)


def test_ids_and_targets_out_of_range_are_named():
    model = GPT(SMALL)
    with pytest.raises(IndexError, match="id 11 is out of range for a vocabulary of 11"):
        model(np.array([[0, 11]]))
    with pytest.raises(IndexError, match="id -1"):
        model(np.array([[-1, 0]]))
    with pytest.raises(IndexError, match="target 99 is out of range for a vocabulary of 11"):
        model(np.array([[0, 1]]), np.array([[0, 99]]))
    with pytest.raises(TypeError, match="float64"):
        model(np.array([[0.0]]))
    with pytest.raises(ValueError, match="9 positions for a context of 8"):
        model(np.zeros((1, 9), int))
    with pytest.raises(ValueError, match=r"\(1, 2, 11\).*\(1, 3\)"):
        model(np.zeros((1, 2), int), np.zeros((1, 3), int))


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="is not divisible by 3 heads"):
        CausalSelfAttention(8, 3)
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        Module()()
    with pytest.raises(NotImplementedError, match="has no initial values for weight"):
        Module().initial_value("weight", (2,), 0)


def layers():
    return [Linear(2, 2), Linear(2, 3)]


CONTAINERS = {
    "Sequential of a dict": (lambda: Sequential({"a": layers()[0], "b": layers()[1]}), ["a", "b"]),
    "slice of a Sequential": (lambda: Sequential(*layers(), GELU())[:2], ["0", "1"]),
    "named slice": (lambda: Sequential({"a": GELU(), "b": GELU()})[1:], ["b"]),
    "slice of a ModuleList": (lambda: ModuleList(layers())[1:], ["0"]),
    "ModuleList of a generator": (lambda: ModuleList(each for each in layers()), ["0", "1"]),
    "ModuleDict": (lambda: ModuleDict(a=layers()[0]), ["a"]),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_hold_what_they_are_given(name):
    make, names = CONTAINERS[name]
    holder = Module()
    holder.layers = make()
    assert isinstance(holder.layers, Module)
    assert [n for n, _ in holder.layers.named_children()] == names
    assert [n.split(".")[1] for n in holder.state_dict()] == [
        n for n, child in holder.layers.named_children() for _ in child.parameters()
    ]


def test_a_sequential_of_a_dict_and_its_slices_run():
    first, second = layers()
    model = Sequential({"first": first, "second": second})
    x = Tensor(np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(model(x).data, second(first(x)).data)
    np.testing.assert_array_equal(model[:1](x).data, first(x).data)
    assert model[-1] is second


REFUSED = {
    "None in a ModuleList": (
        lambda: ModuleList([GELU(), None]),
        TypeError,
        "'1' is of type NoneType",
    ),
    "a list in a Sequential": (lambda: Sequential(layers()), TypeError, "of type list"),
    "a function in a Sequential": (lambda: Sequential(GELU(), abs), TypeError, "'1' is of type"),
    "None in a ModuleDict": (lambda: ModuleDict(a=None), TypeError, "'a' is of type NoneType"),
    "a dot in a name": (lambda: Sequential({"a.b": GELU()}), ValueError, "named 'a.b'"),
    "a method's name": (lambda: Sequential({"forward": GELU()}), ValueError, "named 'forward'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_containers_refuse_what_is_no_module(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("hide", [list, tuple, lambda modules: dict(enumerate(modules))])
def test_modules_and_parameters_in_plain_lists_are_refused_by_name(hide):
    holder = Module()
    holder.layers = hide(layers())
    with pytest.raises(TypeError, match=r"Module\.layers is a (list|tuple|dict) of modules"):
        holder.num_parameters()
    holder.layers = hide([layers()[0].weight])
    with pytest.raises(TypeError, match="use ModuleList"):
        holder(1)


def test_new_layers_start_from_different_numbers_which_manual_seed_decides():
    def draws():
        nn_random.manual_seed(7)
        decoder = TransformerDecoderLayer(8, 2)
        made = [*layers(), *Sequential(Linear(2, 2), Linear(2, 2)), Embedding(2, 2)]
        attentions = [decoder.self_attn.in_proj_weight, decoder.multihead_attn.in_proj_weight]
        return [layer.weight.data for layer in made], [each.data for each in attentions]

    (first, attentions), (again, _) = draws(), draws()
    same = [a.tobytes() == b.tobytes() for n, a in enumerate(first) for b in first[:n]]
    assert not any(same) and (attentions[0] != attentions[1]).any()
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[-1], again[-1])


def test_a_module_with_a_parameter_of_its_own_can_be_initialized():
    class Scaled(Module):
        def __init__(self):
            self.linear, self.scale = Linear(2, 2), Parameter(np.full(2, 3, np.float32))

    one, two = Scaled(), Scaled()
    assert (one.linear.weight.data != two.linear.weight.data).any()
    one.initialize(1)
    two.initialize(1)
    np.testing.assert_array_equal(one.linear.weight.data, two.linear.weight.data)
    assert (one.scale.data == 3).all()
