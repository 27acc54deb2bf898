"""GPT against a plain reference, and what it generates."""

import numpy as np
import pytest

from ringlet.nn import FlatParameters, Tensor
from ringlet.nn.models import GPT, GPTConfig, beam_search, generate, stream
from ringlet.nn.optim import AdamW

CONFIG = GPTConfig(vocab_size=13, block_size=10, n_layer=2, n_head=2, n_embd=8)
IDS = np.random.default_rng(1).integers(0, 13, (3, 7))
TARGETS = np.random.default_rng(2).integers(0, 13, (3, 7))


def reference(state, ids):
    """GPT-2 written down once more, in float64 and without any cleverness."""
    p = {name: array.numpy().astype(np.float64) for name, array in state.items()}

    def norm(x, name):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def attention(x, name):
        batch, length, width = x.shape
        q, k, v = np.split(linear(x, f"{name}.c_attn"), 3, axis=-1)
        out = np.zeros_like(x)
        half = width // 2
        for b in range(batch):
            for head in (slice(0, half), slice(half, width)):
                for t in range(length):
                    scores = k[b, : t + 1, head] @ q[b, t, head] / np.sqrt(half)
                    weights = np.exp(scores - scores.max())
                    out[b, t, head] = weights @ v[b, : t + 1, head] / weights.sum()
        return linear(out, f"{name}.c_proj")

    x = p["transformer.wte.weight"][ids] + p["transformer.wpe.weight"][: ids.shape[1]]
    for layer in range(CONFIG.n_layer):
        name = f"transformer.h.{layer}"
        x = x + attention(norm(x, f"{name}.ln_1"), f"{name}.attn")
        h = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, f"{name}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ p["transformer.wte.weight"].T


@pytest.fixture
def model():
    """A model far from its even start."""
    model = GPT(CONFIG)
    for number, parameter in enumerate(model.parameters()):
        noise = np.random.default_rng(number).standard_normal(parameter.shape)
        parameter.data += (0.3 * noise).astype(np.float32)
    return model


def test_logits_are_the_references(model):
    expected = reference(model.state_dict(), IDS)
    np.testing.assert_allclose(model(IDS).data, expected, atol=1e-4)


def test_the_loss_is_the_mean_or_the_sum(model):
    logits = reference(model.state_dict(), IDS)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_p, TARGETS[..., None], -1)
    assert abs(model(IDS, TARGETS).item() - losses.mean()) < 1e-4
    assert abs(model(IDS, TARGETS, reduction="sum").item() - losses.sum()) < 1e-3
    last = np.full_like(TARGETS, CONFIG.vocab_size - 1)
    expected = -log_p[..., -1].mean()
    assert abs(model(IDS, last).item() - expected) < 1e-4
    assert model(Tensor(IDS), Tensor(TARGETS)).item() == model(IDS, TARGETS).item()


def test_the_tied_embedding_learns_from_both_ends(model):
    model(IDS, TARGETS).backward()
    grad = model.transformer.wte.weight.grad.copy()
    step = 1e-2
    for place in ((3, 2), (12, 7)):
        values = []
        for sign in (1, -1):
            weight = model.transformer.wte.weight.data
            before = weight[place]
            weight[place] = before + sign * step
            logits = reference(model.state_dict(), IDS)
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            values.append(-np.take_along_axis(log_p, TARGETS[..., None], -1).mean())
            weight[place] = before
        assert abs(grad[place] - (values[0] - values[1]) / (2 * step)) < 1e-3


def trained(seed):
    model = GPT(CONFIG, seed=seed)
    flat = FlatParameters(model)
    optimizer = AdamW(flat, 1e-2)
    losses = []
    for _ in range(30):
        flat.zero_grad()
        loss = model(IDS, TARGETS)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, flat.data


def test_it_learns_and_has_the_same_bits_each_time():
    losses, weights = trained(3)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_array_equal(trained(3)[1], weights)


# -- generation -----------------------------------------------------------------------------------

PROMPT = np.array([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 3}, {"top_k": 4, "top_p": 0.9}])
def test_the_cache_changes_nothing(model, options):
    with_cache = generate(model, PROMPT, 100, **options)
    without = generate(model, PROMPT, 100, use_cache=False, **options)
    np.testing.assert_array_equal(with_cache, without)
    assert with_cache.shape == (2, 103)
    np.testing.assert_array_equal(with_cache[:, :3], PROMPT)


def test_greedy_takes_the_likeliest(model):
    ids = generate(model, PROMPT, 7, temperature=0)
    for length in range(3, 10):
        expected = model(ids[:, :length]).data[:, -1].argmax(-1)
        np.testing.assert_array_equal(ids[:, length], expected)


def test_the_lowest_temperatures_take_the_likeliest(model):
    likeliest = generate(model, PROMPT, 5, temperature=0)
    for temperature in (1e-3, 1e-300, 5e-324):
        drawn = generate(model, PROMPT, 5, temperature=temperature)
        np.testing.assert_array_equal(drawn, likeliest)


def test_the_seed_decides(model):
    one = generate(model, PROMPT, 20, seed=1)
    np.testing.assert_array_equal(generate(model, PROMPT, 20, seed=1), one)
    assert not np.array_equal(generate(model, PROMPT, 20, seed=2), one)


def test_top_k_and_top_p_leave_out_the_unlikely(model):
    logits = model(PROMPT[:1]).data[0, -1].astype(np.float64)
    order = np.argsort(-logits)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    nucleus = order[: int((np.cumsum(probabilities[order]) < 0.5).sum()) + 1]
    seen_k, seen_p, seen_all = set(), set(), set()
    for seed in range(60):
        seen_k.add(int(generate(model, PROMPT[:1], 1, top_k=2, seed=seed)[0, -1]))
        seen_p.add(int(generate(model, PROMPT[:1], 1, top_p=0.5, seed=seed)[0, -1]))
        seen_all.add(int(generate(model, PROMPT[:1], 1, temperature=3.0, seed=seed)[0, -1]))
    assert seen_k == set(order[:2].tolist())
    assert seen_p <= set(nucleus.tolist())
    assert len(seen_all) > max(len(seen_k), len(seen_p))


def test_draws_follow_the_probabilities(model):
    logits = model(PROMPT[:1]).data[0, -1].astype(np.float64)
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    many = np.repeat(PROMPT[:1], 4000, axis=0)
    drawn = generate(model, many, 1)[:, -1]
    counts = np.bincount(drawn, minlength=13) / 4000
    np.testing.assert_allclose(counts, expected, atol=0.03)


def test_a_stream_gives_one_token_at_a_time_and_restores_the_mode(model):
    model.train()
    parts = stream(model, PROMPT, 3)
    first = next(parts)
    assert first.shape == (2,)
    assert not model.training
    assert len(list(parts)) == 2
    assert model.training


@pytest.mark.parametrize("run", [generate, beam_search])
def test_every_module_is_in_its_own_mode_again(model, run):
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    run(model, PROMPT, 2)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(IndexError):
        run(model, PROMPT + 1000, 2)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("ids", "options", "text"),
    [
        (PROMPT, {"temperature": -1}, "temperature"),
        (PROMPT, {"top_k": 0}, "top_k"),
        (PROMPT, {"top_p": 0.0}, "top_p"),
        (np.array([1, 2]), {}, "batch of rows"),
        (np.zeros((1, 0), int), {}, "at least one id"),
    ],
)
def test_impossible_wishes_are_refused(model, ids, options, text):
    with pytest.raises(ValueError, match=text):
        generate(model, ids, 2, **options)


def test_a_prompt_longer_than_the_context_keeps_its_end(model):
    long = np.random.default_rng(0).integers(0, 13, (1, 25))
    ids = generate(model, long, 2, temperature=0)
    assert ids.shape == (1, 27)
    assert ids[0, 25] == model(long[:, -10:]).data[0, -1].argmax()


def test_rows_of_different_lengths(model):
    """Padding in front or behind, and holes, change no row; without padding a mask does nothing."""
    np.testing.assert_array_equal(
        model(IDS, attention_mask=np.ones_like(IDS)).data, model(IDS).data
    )
    mask = np.array([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 0, 1, 1]])
    together = model(IDS, attention_mask=mask).data
    for row, ids, seen in zip(together, IDS, mask > 0, strict=True):
        np.testing.assert_allclose(row[seen], model(ids[seen][None]).data[0], atol=1e-5)


def test_a_cache_with_padding_takes_the_mask_of_all(model):
    mask = np.array([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0, 1, 1, 1, 1, 1, 1]])
    whole, caches = model(IDS, attention_mask=mask).data, model.caches()
    for start, end in ((0, 4), (4, 6), (6, 7)):
        part = model(IDS[:, start:end], caches=caches, attention_mask=mask[:, :end]).data
        seen = mask[:, start:end] > 0
        np.testing.assert_allclose(part[seen], whole[:, start:end][seen], atol=1e-5)
    with pytest.raises(ValueError, match=r"attention_mask of shape \(3, 1\) for rows of 8"):
        model(IDS[:, :1], caches=caches, attention_mask=mask[:, :1])


MASKS_REFUSED = {
    "shape": (np.ones((3, 6)), r"attention_mask of shape \(3, 6\)"),
    "axes": (np.ones((3, 1, 7)), r"attention_mask of shape \(3, 1, 7\)"),
}


@pytest.mark.parametrize("case", MASKS_REFUSED)
def test_a_mask_that_does_not_fit_is_refused(model, case):
    mask, words = MASKS_REFUSED[case]
    for call in (lambda: model(IDS, attention_mask=mask),
                 lambda: generate(model, IDS, 2, attention_mask=mask)):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()


def test_a_row_of_padding_is_refused(model):
    mask = np.ones_like(IDS)
    mask[1] = 0
    for run in (generate, beam_search):
        with pytest.raises(ValueError, match="row 1 of the ids is padding only"):
            run(model, IDS, 2, attention_mask=mask)


def test_experts_do_not_train_on_padding():
    model = GPT(GPTConfig(13, 10, 2, 2, 8, n_expert=2))
    mask = np.ones_like(IDS)
    mask[0, :2] = 0
    with pytest.raises(ValueError, match="padding would take the experts' capacity"):
        model(IDS, TARGETS, attention_mask=mask)
    alone = generate(model, IDS[:1, 2:], 3, temperature=0)[0, 5:]
    np.testing.assert_array_equal(
        generate(model, IDS, 3, temperature=0, attention_mask=mask)[0, 7:], alone
    )
