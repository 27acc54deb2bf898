"""Optimizers against their definitions, clipping, and learning rates."""

import math

import numpy as np
import pytest

from ringlet.nn import FlatParameters, LayerNorm, Linear, Sequential, first_nonfinite
from ringlet.nn import optim as optimizers
from ringlet.nn.optim import (
    SGD,
    Adafactor,
    AdamW,
    Group,
    Lion,
    Muon,
    clip_grad_norm_,
    clip_grad_value_,
    grad_norm,
    orthogonalized,
    warmup_cosine,
)
from ringlet.nn.optim import optimizer as blocks

STEPS = 5


def problem():
    model = Sequential(Linear(5, 7), LayerNorm(7), Linear(7, 3))
    flat = FlatParameters(model)
    flat.data[:] = np.random.default_rng(0).standard_normal(flat.size)
    return flat


def gradients():
    return np.random.default_rng(1).standard_normal((STEPS, problem().size)).astype(np.float32)


def run(make):
    flat = problem()
    optimizer = make(flat)
    for grad in gradients():
        flat.grad[:] = grad
        optimizer.step()
        np.testing.assert_array_equal(flat.grad, grad)  # gradients are only read
    return flat, optimizer


@pytest.fixture(params=[7, 1000], autouse=True)
def small_blocks(request, monkeypatch):
    """Blocks that cut parameters in two, and blocks larger than everything."""
    monkeypatch.setattr(blocks, "BLOCK", request.param)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd(momentum, nesterov, weight_decay):
    if nesterov and not momentum:
        with pytest.raises(ValueError, match="momentum above 0"):
            SGD(problem(), 0.1, nesterov=True)
        return
    flat, _ = run(
        lambda f: SGD(f, 0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    )
    data = problem().data.astype(np.float64)
    velocity = np.zeros_like(data)
    for grad in gradients().astype(np.float64):
        grad = grad + weight_decay * data
        velocity = momentum * velocity + grad
        data -= 0.1 * (grad + momentum * velocity if nesterov else velocity)
    np.testing.assert_allclose(flat.data, data, atol=1e-5)


def test_adamw_decays_matrices_only():
    flat, _ = run(lambda f: AdamW(f, 1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.5))
    data = problem().data.astype(np.float64)
    decays = np.zeros(flat.size)
    for slot in flat.slots:
        decays[slot.start : slot.stop] = 0.5 if len(slot.shape) == 2 else 0
    m, v = np.zeros_like(data), np.zeros_like(data)
    for t, grad in enumerate(gradients().astype(np.float64), 1):
        data *= 1 - 1e-2 * decays
        m = 0.8 * m + 0.2 * grad
        v = 0.95 * v + 0.05 * grad**2
        data -= 1e-2 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
    np.testing.assert_allclose(flat.data, data, atol=1e-5)
    assert {len(slot.shape) for slot in flat.slots} == {1, 2}


def test_what_decays_can_be_chosen():
    chosen = []

    def nothing(name, parameter):
        chosen.append(name)
        return False

    kept, _ = run(lambda f: AdamW(f, 1e-2, weight_decay=0.5, decay=nothing))
    plain, _ = run(lambda f: AdamW(f, 1e-2, weight_decay=0.0))
    np.testing.assert_array_equal(kept.data, plain.data)
    assert "2.weight" in chosen


def test_lion():
    flat, _ = run(lambda f: Lion(f, 1e-2, betas=(0.8, 0.95), weight_decay=0.5))
    data = problem().data.astype(np.float64)
    decays, m = np.zeros(flat.size), np.zeros_like(data)
    for slot in flat.slots:
        decays[slot.start : slot.stop] = 0.5 if len(slot.shape) == 2 else 0
    for grad in gradients().astype(np.float64):
        data -= 1e-2 * (np.sign(0.8 * m + 0.2 * grad) + decays * data)
        m = 0.95 * m + 0.05 * grad
    np.testing.assert_allclose(flat.data, data, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (3, 5, 5)])
def test_muon_makes_matrices_orthogonal(shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    made = orthogonalized(matrix)
    values = np.linalg.svd(made, compute_uv=False)
    assert (values > 0.6).all()
    assert (values < 1.3).all()
    # the same singular vectors, so that u^T made v^T is diagonal
    middle = np.swapaxes(u, -1, -2) @ made @ np.swapaxes(v, -1, -2)
    np.testing.assert_allclose(middle * (1 - np.eye(s.shape[-1])), 0, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_is_for_hidden_matrices_and_adamw_for_the_rest(nesterov):
    flat, _ = run(lambda f: Muon(f, 1e-2, weight_decay=0.5, nesterov=nesterov, adjust="original"))
    plain, _ = run(lambda f: AdamW(f, 1e-2, weight_decay=0.5))
    start = problem()
    for slot in flat.slots:
        place = slice(slot.start, slot.stop)
        if len(slot.shape) == 1:
            np.testing.assert_array_equal(flat.data[place], plain.data[place])
            continue
        data = start.data[place].reshape(slot.shape).astype(np.float64)
        mean = np.zeros_like(data)
        for grad in gradients()[:, place].reshape(-1, *slot.shape):
            mean = 0.95 * mean + 0.05 * grad
            wanted = 0.05 * grad + 0.95 * mean if nesterov else mean
            scale = math.sqrt(max(1, slot.shape[0] / slot.shape[1]))
            data = data * (1 - 1e-2 * 0.5) - 1e-2 * scale * orthogonalized(wanted)
        np.testing.assert_allclose(flat.data[place].reshape(slot.shape), data, atol=2e-4)
    tables = Sequential(Linear(5, 7))
    tables.wte = Linear(3, 5, bias=False)
    assert [slot.name for slot in Muon(FlatParameters(tables)).whole_slots()] == ["0.weight"]


@pytest.mark.parametrize("kind", [Adafactor, Muon])
def test_a_part_of_a_matrix_is_refused(kind):
    flat = problem()
    cut = [slot._replace(stop=slot.stop - 3) for slot in flat.slots[:1]]
    flat.slots[:1] = cut
    with pytest.raises(ValueError, match=r"only 32 of the 35 elements of 0\.weight are here.*ZeRO"):
        kind(flat)


def test_adafactor_touches_a_row_and_a_column_of_its_state():
    _, optimizer = run(Adafactor)
    state = optimizer.state["variance"]
    assert np.count_nonzero(state[:35]) == 7 + 5
    assert np.count_nonzero(state[35:42]) == 7


def test_groups_by_name():
    groups = [Group("*.bias", weight_decay=0.0), Group("0.w*, 0.*", scale=0.5, weight_decay=0.2)]
    flat, _ = run(lambda f: SGD(f, 0.1, weight_decay=0.4, groups=groups))
    for slot in flat.slots:
        decay = 0.0 if slot.name.endswith("bias") else 0.2 if slot.name[0] == "0" else 0.4
        rate = 0.05 if slot.name == "0.weight" else 0.1
        alone, _ = run(lambda f, r=rate, d=decay: SGD(f, r, weight_decay=d))
        place = slice(slot.start, slot.stop)
        np.testing.assert_array_equal(flat.data[place], alone.data[place])


IDLE = {
    "none fits": ([Group("lm_head.*")], "no parameter fits 'lm_head"),
    "one of two": ([Group("*.bias, *.wieght")], "no parameter fits .*wieght"),
    "all taken": ([Group("*"), Group("*.bias")], "belongs to groups before it"),
    "empty": ([Group("")], "no parameter fits ''"),
}


@pytest.mark.parametrize("case", IDLE)
def test_a_group_that_fits_nothing_is_refused(case):
    groups, text = IDLE[case]
    with pytest.raises(ValueError, match=text):
        run(lambda f: SGD(f, 0.1, groups=groups))


EVERY = {
    "SGD": lambda f, r: SGD(f, r, momentum=0.9),
    "AdamW": AdamW,
    "Adam": optimizers.Adam,
    "Adagrad": optimizers.Adagrad,
    "RMSprop": lambda f, r: optimizers.RMSprop(f, r, momentum=0.5, centered=True),
    "Lion": Lion,
    "Adafactor": Adafactor,
    "Muon": Muon,
}


@pytest.mark.parametrize("name", EVERY)
def test_a_step_in_ranges_is_a_step(name):
    whole, _ = run(lambda f: EVERY[name](f, 1e-2))
    flat = problem()
    optimizer = EVERY[name](flat, 1e-2)
    for grad in gradients():
        flat.grad[:] = grad
        optimizer.prepare()
        middle = flat.slots[2].start
        optimizer.update_range(middle, flat.size)
        optimizer.update_range(0, middle)
    np.testing.assert_allclose(flat.data, whole.data, rtol=1e-6)


@pytest.mark.parametrize("make", EVERY.values())
def test_a_saved_state_goes_on_with_the_same_bits(make):
    whole, _ = run(lambda f: make(f, 1e-2))
    flat = problem()
    optimizer = make(flat, 1e-2)
    for number, grad in enumerate(gradients()):
        if number == 2:
            state = {k: np.copy(v) for k, v in optimizer.state_dict().items()}
            optimizer = make(flat, 1e-2)
            optimizer.load_state_dict(state)
        flat.grad[:] = grad
        optimizer.step()
    np.testing.assert_array_equal(flat.data, whole.data)


def test_another_optimizers_state_is_refused():
    flat = problem()
    with pytest.raises(KeyError, match="AdamW keeps"):
        AdamW(flat).load_state_dict(SGD(flat, 0.1).state_dict())


def test_the_learning_rate_can_be_set_each_step():
    flat = problem()
    optimizer = SGD(flat, 1.0)
    optimizer.learning_rate = 0.0
    before = flat.data.copy()
    flat.grad[:] = 1
    optimizer.step()
    np.testing.assert_array_equal(flat.data, before)


# -- clipping -------------------------------------------------------------------------------------


def test_clipping_by_the_norm_of_all():
    flat = problem()
    grad = gradients()[0]
    norm = np.linalg.norm(grad.astype(np.float64))
    flat.grad[:] = grad
    assert abs(clip_grad_norm_(flat, 100.0) - norm) < 1e-4
    np.testing.assert_array_equal(flat.grad, grad)
    clip_grad_norm_(flat, 1.0)
    assert abs(grad_norm(flat.grad) - 1) < 1e-4
    np.testing.assert_allclose(flat.grad, grad / norm, rtol=1e-4)


def test_clipping_each_element():
    flat = problem()
    flat.grad[:] = grad = gradients()[0]
    clip_grad_value_(flat, 0.3)
    np.testing.assert_array_equal(flat.grad, np.clip(grad, np.float32(-0.3), np.float32(0.3)))
    with pytest.raises(ValueError, match="clip_value is -1"):
        clip_grad_value_(flat, -1)


def test_what_is_not_finite_is_found():
    flat = problem()
    flat.grad[:] = 1
    assert first_nonfinite(flat) is None
    flat.grad[flat.slots[2].start] = np.nan
    flat.grad[flat.slots[3].start] = np.inf
    assert first_nonfinite(flat) == flat.slots[2].name
    assert math.isnan(clip_grad_norm_(flat, 1.0))


# -- schedules ------------------------------------------------------------------------------------


def rate(step):
    return warmup_cosine(step, peak=1.0, floor=0.1, warmup_steps=10, total_steps=110)


def test_warm_up_and_cosine():
    assert [rate(step) for step in (0, 4, 9)] == pytest.approx([1 / 11, 5 / 11, 10 / 11])
    assert rate(10) == 1.0
    assert rate(60) == pytest.approx(0.55)
    assert rate(110) == rate(5000) == 0.1
    assert all(rate(step) >= rate(step + 1) for step in range(10, 120))
    assert warmup_cosine(0, peak=1, floor=0, warmup_steps=0, total_steps=1) == 1


def test_other_schedules():
    assert [optimizers.constant(0.3)(step) for step in (0, 99)] == [0.3, 0.3]
    falling = optimizers.linear(1.0, 0.5, 10)
    assert [falling(step) for step in (0, 5, 10, 99)] == pytest.approx([1, 0.75, 0.5, 0.5])
    warm = optimizers.warmup(falling, 4)
    assert [warm(step) for step in (0, 3, 4, 9)] == pytest.approx([0.2, 0.8, 1, 0.75])
    root = optimizers.inverse_sqrt(2.0, 4)
    assert [root(step) for step in (0, 3, 15)] == pytest.approx([0.5, 2, 1])
    up_and_down = optimizers.one_cycle(1.0, 21, rising=11 / 21)
    rates = [up_and_down(step) for step in range(21)]
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[20] == pytest.approx(1 / 25 / 1e4)
