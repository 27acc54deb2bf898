"""What computes on a device, on a stand-in for CuPy that refuses what CuPy does not do."""

from pathlib import Path

import numpy as np
import pytest

from ringlet import nn
from ringlet.launcher.workers.warm import load

FOLDER = Path(__file__).with_name("torch")

cases, compare = (load(str(FOLDER / f"{name}.py")) for name in ("cases", "compare"))


@pytest.mark.parametrize("name", cases.CASES)
def test_values_and_gradients_are_numpys(name, request):
    expected = compare.evaluate(compare.Ringlet, cases.CASES[name], cases.Draw(name, 0))
    request.getfixturevalue("fake_cupy")
    actual = compare.evaluate(compare.Ringlet, cases.CASES[name], cases.Draw(name, 0))
    for mine, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_optimizers_take_numpys_steps(name, request):
    options = cases.OPTIMIZERS[name]
    (expected,) = compare.optimized(compare.Ringlet, name, options, cases.Draw(name, 0))
    request.getfixturevalue("fake_cupy")
    (actual,) = compare.optimized(compare.Ringlet, name, options, cases.Draw(name, 0))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def trained(model_class, config, steps=3, options=None, **given):
    """The losses and the last parameters of a few steps, as everybody makes them."""
    model = model_class(config)
    flat = nn.FlatParameters(model)
    optimizer = nn.optim.AdamW(flat, 1e-2)
    random, losses = np.random.default_rng(0), []
    for step in range(steps):
        ids, targets = random.integers(0, config.vocab_size, (2, 3, 8))
        targets[0, 0] = -100
        flat.zero_grad()
        with nn.random.scope(seed=1, step=step):
            loss = model(ids, targets, **given)
        loss.backward()
        nn.optim.clip_grad_norm_(flat, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, nn.to_host(flat.data)


PADDED = np.array([[1] * 8, [1] * 6 + [0] * 2, [1] * 8])
MODELS = {
    "gpt": (nn.models.GPT, nn.models.GPTConfig(13, 8, 2, 2, 8, dropout=0.1), {}),
    "gpt of experts": (nn.models.GPT, nn.models.GPTConfig(13, 8, 2, 2, 8, n_expert=4), {}),
    "padded gpt": (
        nn.models.GPT,
        nn.models.GPTConfig(13, 8, 2, 2, 8),
        {"attention_mask": PADDED[:, ::-1]},
    ),
    "llama": (nn.models.Llama, nn.models.LlamaConfig(13, 8, 16, 2, 2, 1), {}),
    "qwen": (
        nn.models.Llama,
        nn.models.LlamaConfig(
            13,
            8,
            16,
            2,
            2,
            1,
            qk_norm=True,
            qkv_bias=True,
            sliding_window=3,
            rope_scaling={"rope_type": "dynamic", "factor": 4},
            max_position_embeddings=4,
        ),
        {"attention_mask": PADDED[:, ::-1]},
    ),
    "bert": (nn.models.BERT, nn.models.BERTConfig(13, 8, 2, 2, 16), {"attention_mask": PADDED}),
    "t5": (
        nn.models.T5,
        nn.models.T5Config(vocab_size=13, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2),
        {"attention_mask": PADDED},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_train_as_on_numpy(name, request):
    kind, config, options = MODELS[name]
    losses, parameters = trained(kind, config, **options)
    request.getfixturevalue("fake_cupy")
    on_device = trained(kind, config, **options)
    np.testing.assert_allclose(on_device[0], losses, rtol=1e-5)
    np.testing.assert_allclose(on_device[1], parameters, rtol=1e-3, atol=1e-5)


def test_initial_weights_are_the_same_bits(request):
    config = MODELS["gpt"][1]
    expected = nn.models.GPT(config, seed=3).state_dict()
    cupy = request.getfixturevalue("fake_cupy")
    state = nn.models.GPT(config, seed=3).state_dict()
    for name, tensor in state.items():
        assert isinstance(tensor.data, cupy.ndarray)
        np.testing.assert_array_equal(tensor.numpy(), expected[name].data)


def continued(name, **options):
    kind, config, given = MODELS[name]
    ids = np.random.default_rng(5).integers(1, 13, (2, 6))
    given = {key: value[:2, :6] for key, value in given.items()}
    return nn.models.generate(kind(config), ids, 8, **options, **given)


@pytest.mark.parametrize("name", ["gpt", "gpt of experts", "llama", "t5"])
def test_generation_says_the_same(name, request):
    choices = [{"temperature": 0}, {"top_k": 5, "seed": 2}, {"use_cache": False, "top_p": 0.9}]
    expected = [continued(name, **options) for options in choices]
    request.getfixturevalue("fake_cupy")
    for options, ids in zip(choices, expected, strict=True):
        np.testing.assert_array_equal(continued(name, **options), ids)


def test_beams_find_the_same(request):
    def search():
        model = nn.models.GPT(MODELS["gpt"][1])
        return nn.models.beam_search(model, np.array([[1, 2, 3], [4, 5, 6]]), 4, beams=3)

    expected = search()
    request.getfixturevalue("fake_cupy")
    np.testing.assert_array_equal(search(), expected)


def test_a_training_step_moves_little_and_waits_seldom(fake_cupy):
    """What depends on the batch goes there, the norm and the loss come back; nothing else."""
    model = nn.models.GPT(nn.models.GPTConfig(13, 8, 4, 2, 8))
    flat = nn.FlatParameters(model)
    optimizer = nn.optim.AdamW(flat)
    ids = np.zeros((3, 8), np.int64)
    for _ in range(2):  # the second shows that nothing is moved once only
        fake_cupy.counts.clear()
        flat.zero_grad()
        loss = model(ids, ids)
        loss.backward()
        assert fake_cupy.counts["to host"] == fake_cupy.counts["waits"] == 0
        nn.optim.clip_grad_norm_(flat, 1.0)
        optimizer.step()
        loss.item()
        # ids and positions, and in backward their order, rows and starts, and for the ids, of
        # which up to 24 are the same, 5 rounds of sums; three for the loss
        assert fake_cupy.counts["to device"] == 2 * 4 + 5 + 3
        assert fake_cupy.counts["to host"] == fake_cupy.counts["waits"] == 2


def test_more_layers_take_no_more_transfers(fake_cupy):
    moved = []
    for layers in (1, 3):
        model = nn.models.GPT(nn.models.GPTConfig(13, 8, layers, 2, 8))
        fake_cupy.counts.clear()
        model(np.zeros((2, 8), np.int64), np.zeros((2, 8), np.int64)).backward()
        moved.append(dict(fake_cupy.counts))
    assert moved[0] == moved[1]


# -- files, and the rest of the face ----------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "t5"])
def test_models_are_saved_and_loaded(name, fake_cupy, tmp_path):
    kind, config, _ = MODELS[name]
    model = kind(config, seed=4)
    model.save_pretrained(tmp_path / "device")
    expected = {path: tensor.numpy() for path, tensor in model.state_dict().items()}
    again = nn.models.from_pretrained(tmp_path / "device")
    with nn.backend.substituted(nn.Backend()):
        on_host = nn.models.from_pretrained(tmp_path / "device")
    for path, array in expected.items():
        assert isinstance(again.state_dict()[path].data, fake_cupy.ndarray)
        np.testing.assert_array_equal(again.state_dict()[path].numpy(), array)
        np.testing.assert_array_equal(on_host.get_parameter(path).data, array)


def test_low_rank_changes_learn_and_merge(fake_cupy, tmp_path):
    model = nn.models.GPT(MODELS["gpt"][1])
    paths = nn.add_lora(model, "*.c_attn", rank=2)
    flat = nn.FlatParameters(model)
    optimizer = nn.optim.SGD(flat, 0.1)
    ids = np.arange(8)[None]
    for _ in range(3):
        flat.zero_grad()
        model.eval()(ids, ids).backward()
        optimizer.step()
    expected = model(ids).numpy()
    nn.save_lora(model, tmp_path)
    assert nn.merge_lora(model) == paths
    np.testing.assert_allclose(model(ids).numpy(), expected, rtol=1e-4, atol=1e-5)
    other = nn.models.GPT(MODELS["gpt"][1]).eval()
    assert nn.load_lora(other, tmp_path) == paths
    np.testing.assert_allclose(other(ids).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_recomputing_changes_no_bit(fake_cupy):
    gradients = []
    for recompute in (False, True):
        model = nn.models.GPT(MODELS["gpt"][1])
        for block in model.blocks:
            block.recompute = recompute
        flat = nn.FlatParameters(model)
        with nn.random.scope(seed=1, step=1):
            model(np.arange(8)[None], np.arange(8)[None]).backward()
        gradients.append(nn.to_host(flat.grad))
    np.testing.assert_array_equal(*gradients)


def test_initial_values_under_pytorchs_names(request):
    def draw():
        nn.random.manual_seed(3)
        tensors = [nn.Tensor(np.zeros((4, 6), np.float32)) for _ in range(8)]
        init = nn.init
        functions = (init.ones_, init.eye_, init.uniform_, init.normal_, init.trunc_normal_)
        functions += (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_)
        return [function(x).numpy() for function, x in zip(functions, tensors, strict=True)]

    expected = draw()
    request.getfixturevalue("fake_cupy")
    for mine, other in zip(draw(), expected, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_aids_for_people(fake_cupy):
    x = nn.Tensor(np.arange(3.0), requires_grad=True)
    assert repr(x) == "tensor([0., 1., 2.], dtype=float64, requires_grad=True)"
    assert x.tolist() == [0, 1, 2] and float(x[1]) == 1 and bool(x[1] == 1)
    assert isinstance(x.numpy(), np.ndarray)
    nn.gradcheck(lambda a, b: (a @ b).tanh(), [np.ones((2, 3)), np.ones((3, 2))])
    model = nn.models.GPT(MODELS["gpt"][1])
    assert model.summary(np.zeros((1, 8), np.int64)).flops > 0
    nan = nn.Tensor(np.array([np.nan]))
    with pytest.raises(nn.Anomaly, match="Abs was given NaN"), nn.detect_anomaly():
        nan.abs()
    with nn.no_grad():
        x[0] = 5
    assert x.tolist() == [5, 1, 2]
    state = nn.Linear(2, 2).state_dict()
    layer = nn.Linear(2, 2)
    layer.load_state_dict({name: np.ones(a.shape) for name, a in state.items()})
    np.testing.assert_array_equal(layer.weight.numpy(), np.ones((2, 2)))
    flat = nn.FlatParameters(layer)
    optimizer = nn.optim.AdamW(flat)
    optimizer.load_state_dict(
        {k: nn.to_host(v) if k != "steps" else 3 for k, v in optimizer.state_dict().items()}
    )
    assert optimizer.steps == 3 and nn.first_nonfinite(flat) is None


def test_runs_are_summed_pair_by_pair(fake_cupy):
    """Whatever the lengths: ids in any order, and small rows beside large ones."""
    random = np.random.default_rng(0)
    for uses, table in ((1, 3), (40, 1), (300, 7), (64, 64)):
        ids = random.integers(0, table, uses)
        weight = nn.Tensor(np.zeros((table, 2), np.float32), requires_grad=True)
        grad = (10.0 ** random.integers(-3, 4, table))[ids, None] * np.ones(2, np.float32)
        nn.functional.embedding(ids, weight).backward(nn.asarray(grad, np.float32))
        expected = np.zeros((table, 2))
        np.add.at(expected, ids, grad)
        np.testing.assert_allclose(nn.to_host(weight.grad), expected, rtol=1e-6)
