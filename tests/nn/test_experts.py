"""A mixture of experts against a plain reference, its gradients, and what it promises."""

import math

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import Tensor
from ringlet.nn.autograd.operations.experts import Balance, top_indices
from ringlet.nn.models import GPT, GPTConfig, generate

WIDTH, HIDDEN = 3, 5


def layer(experts=4, **options):
    """A mixture far from its even start, in float64."""
    made = nn.MixtureOfExperts(WIDTH, HIDDEN, experts, **options)
    made.initialize(3)
    for number, parameter in enumerate(made.parameters()):
        noise = np.random.default_rng(number).standard_normal(parameter.shape)
        parameter.data = parameter.data.astype(np.float64) + noise
    return made


def inputs(batch=3, length=7):
    return np.random.default_rng(5).standard_normal((batch, length, WIDTH))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def reference(p, x, top_k, capacity_factor=0.0):
    """Position by position: (results, balance loss of each sample, choices dropped)."""
    p = {name: tensor.numpy() for name, tensor in p.items()}
    experts = len(p["router.weight"])
    out, balance, dropped = np.zeros_like(x), [], 0
    for b, sample in enumerate(x):
        served, wanted, chance = [0] * experts, [0] * experts, np.zeros(experts)
        capacity = math.inf
        if capacity_factor:
            capacity = math.ceil(capacity_factor * top_k * len(sample) / experts)
        for t, row in enumerate(sample):
            scores = p["router.weight"] @ row
            exp = np.exp(scores)
            chance += exp / exp.sum() / len(sample)
            chosen = sorted(range(experts), key=lambda e: (-scores[e], e))[:top_k]
            gates = exp[chosen] / (exp.sum() if top_k == 1 else exp[chosen].sum())
            for e, gate in zip(chosen, gates, strict=True):
                wanted[e] += 1
                if served[e] == capacity:
                    dropped += 1
                    continue
                served[e] += 1
                hidden = p["experts.c_fc.weight"][e] @ row + p["experts.c_fc.bias"][e]
                y = p["experts.c_proj.weight"][e] @ gelu(hidden) + p["experts.c_proj.bias"][e]
                out[b, t] += gate * y
        part = np.array(wanted) / (top_k * len(sample))
        balance.append(experts * (part * chance).sum())
    return out, balance, dropped


CASES = [  # experts, top_k, capacity factor, whether something is dropped
    (4, 2, 0.0, False),
    (4, 2, 1.0, True),
    (4, 1, 0.5, True),
    (4, 1, 0.0, False),
    (2, 2, 1.0, False),
    (1, 1, 1.0, False),
    (5, 3, 0.3, True),
]


@pytest.mark.parametrize(("experts", "top_k", "factor", "drops"), CASES)
def test_the_results_are_the_references(experts, top_k, factor, drops):
    made = layer(experts, top_k=top_k, capacity_factor=factor)
    x = inputs()
    expected, _, dropped = reference(made.state_dict(), x, top_k, factor)
    np.testing.assert_allclose(made(Tensor(x)).data, expected, atol=1e-12)
    assert bool(dropped) == drops
    made.eval()  # where nobody is turned away
    np.testing.assert_allclose(made(Tensor(x)).data, reference(made.state_dict(), x, top_k)[0])


@pytest.mark.parametrize(("experts", "top_k", "factor", "drops"), CASES)
def test_gradients(experts, top_k, factor, drops):
    made = layer(experts, top_k=top_k, capacity_factor=factor, balance=0.0)
    names = list(made.state_dict())

    def function(x, *values):
        for name, value in zip(names, values, strict=True):
            path, _, own = name.rpartition(".")
            vars(made.submodule(path))[own] = value
        return made(x)

    nn.gradcheck(function, [inputs(2, 4), *map(np.asarray, made.state_dict().values())])


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_the_gradient_of_the_balance_loss_comes_besides(top_k, scale):
    """It is that of the reference's loss; in a scope each position has the weight of its scale."""
    x, weight = inputs(), 0.3
    gradients = []
    for balance in (weight, 0.0):
        made = layer(top_k=top_k, capacity_factor=1.0, balance=balance)
        tensor = Tensor(x, requires_grad=True)
        if scale is None:
            made(tensor).sum().backward()
        else:
            with nn.random.scope(seed=0, step=0, loss_scale=scale):
                made(tensor).sum().backward()
        gradients.append([made.router.weight.grad, tensor.grad])
    state = made.state_dict()
    factor = weight / len(x) if scale is None else weight * scale * x.shape[1]

    def loss(x):
        return factor * sum(reference(state, x, top_k)[1])

    for array, with_balance, without in zip([state["router.weight"], x], *gradients, strict=True):
        expected = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            array[place] += 1e-6
            above = loss(x)
            array[place] -= 2e-6
            expected[place] = (above - loss(x)) / 2e-6
            array[place] += 1e-6
        np.testing.assert_allclose(with_balance - without, expected, atol=1e-8)


def test_an_even_load_has_no_pull():
    logits = Tensor(np.random.default_rng(0).standard_normal((1, 4, 2)), requires_grad=True)
    Balance(np.full((1, 2), 0.5), 7.0)(logits).sum().backward()
    np.testing.assert_allclose(logits.grad, 1.0)


def test_of_equal_experts_the_first_is_chosen():
    logits = np.array([[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, -2.0, -1.0, 3.0]])
    assert top_indices(logits, 2).tolist() == [[1, 2], [0, 1], [3, 0]]


def test_a_sample_does_not_depend_on_the_others_nor_a_position_on_later_ones():
    made = layer(capacity_factor=1.0)
    x = inputs(4, 8)
    whole = made(Tensor(x)).data
    np.testing.assert_allclose(made(Tensor(x[2:3])).data, whole[2:3], rtol=1e-12)
    changed = x.copy()
    changed[:, 5:] += 1.0
    np.testing.assert_allclose(made(Tensor(changed)).data[:, :5], whole[:, :5], rtol=1e-12)


def test_recomputation_changes_no_bit():
    gradients = []
    for again in (False, True):
        made = layer(capacity_factor=1.0, balance=0.1)
        made.recompute = again
        x = Tensor(inputs(), requires_grad=True)
        with nn.random.scope(seed=0, step=0, loss_scale=0.1):
            made(x).sum().backward()
        gradients.append([x.grad, *(p.grad for p in made.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        np.testing.assert_array_equal(plain, recomputed)


@pytest.mark.parametrize("top_k", [0, 5])
def test_more_choices_than_experts_are_refused(top_k):
    with pytest.raises(ValueError, match=f"top_k is {top_k}; it must be from 1 to 4"):
        nn.MixtureOfExperts(WIDTH, HIDDEN, 4, top_k)


# -- in a GPT ---------------------------------------------------------------------------------

SIZES = {"vocab_size": 13, "block_size": 10, "n_layer": 2, "n_head": 2, "n_embd": 8}


def test_a_gpt_of_experts_learns():
    model = GPT(GPTConfig(**SIZES, n_expert=4, balance=0.01))
    flat = nn.FlatParameters(model.named_parameters())
    optimizer = nn.optim.AdamW(flat, 1e-2)
    ids = np.random.default_rng(1).integers(0, 13, (4, 11))
    losses = []
    for _ in range(60):
        flat.zero_grad()
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < 2.4 < losses[0]


def test_one_expert_is_a_plain_mlp():
    plain, mixed = GPT(GPTConfig(**SIZES)), GPT(GPTConfig(**SIZES, n_expert=1, top_k=1))
    state = {name.replace(".experts", ""): array for name, array in mixed.state_dict().items()}
    for name, array in plain.state_dict().items():
        array[...] = state[name].reshape(array.shape)
    ids = np.arange(8).reshape(1, 8)
    np.testing.assert_allclose(plain(ids).data, mixed(ids).data, atol=1e-6)


def test_generation_is_the_same_with_a_cache():
    model = GPT(GPTConfig(**SIZES, n_expert=4, capacity_factor=0.5), seed=5)
    for number, parameter in enumerate(model.parameters()):
        noise = np.random.default_rng(number).standard_normal(parameter.shape)
        parameter.data += (0.3 * noise).astype(np.float32)
    prompt = np.array([[1, 2, 3], [4, 5, 6]])
    kept, fresh = (
        generate(model, prompt, 12, temperature=0, use_cache=use_cache)
        for use_cache in (True, False)
    )
    np.testing.assert_array_equal(kept, fresh)


def test_biases_of_experts_do_not_decay():
    made = nn.ExpertLinear(2, 3, 4)
    before = {name: array.numpy().copy() for name, array in made.state_dict().items()}
    flat = nn.FlatParameters(made.named_parameters())
    flat.zero_grad()
    flat.settle()
    nn.optim.AdamW(flat, 0.5, weight_decay=1.0).step()
    np.testing.assert_array_equal(made.bias.data, before["bias"])
    np.testing.assert_allclose(made.weight.data, before["weight"] / 2)
