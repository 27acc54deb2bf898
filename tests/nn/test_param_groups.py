"""torch.optim's face: parameters in groups, states by parameter, schedulers, and clipping."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ringlet import nn
from ringlet.nn import Parameter, no_grad, optim

GRADIENTS = [0.5, -1.0], [0.25, 2.0], [-3.0, 0.5]
STEPS = [  # after these three steps from [1, 2], as PyTorch computes them in float64
    (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        [0.950376, 1.971832],
    ),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, [1.3303, 1.7069]),
    ("Adam", {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}, [0.8503167079, 1.9995249061]),
    ("AdamW", {"lr": 0.1}, [0.8536919543, 2.0156672352]),
    ("AdamW", {"lr": 0.1, "maximize": True}, [1.1403140437, 1.9723447608]),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}, [0.9412674107, 2.000503613]),
    ("RMSprop", {"lr": 0.1, "momentum": 0.5, "centered": True}, [-0.4523577204, 2.1945060515]),
    ("Adafactor", {"lr": 0.1}, [0.9363102064, 1.9088141282]),
]


def parameter(*values):
    return Parameter(np.array(values, np.float64))


def take(optimizer, p, gradients=GRADIENTS):
    for grad in gradients:
        p.grad = np.array(grad)
        optimizer.step()
    return p.data


@pytest.mark.parametrize(("name", "options", "expected"), STEPS)
def test_steps_are_pytorchs(name, options, expected):
    p = parameter(1, 2)
    assert_allclose(take(getattr(optim, name)([p], **options), p), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Lion", "Adafactor"]
)
def test_state_dicts_continue_with_the_same_bits(name):
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    whole, half, again = (parameter(1, 2) for _ in range(3))
    take(getattr(optim, name)([whole], lr=0.1, **options), whole)
    first = getattr(optim, name)([half], lr=0.1, **options)
    again.data[:] = take(first, half, GRADIENTS[:2])
    second = getattr(optim, name)([again], lr=7)
    second.load_state_dict(first.state_dict())
    assert_array_equal(take(second, again, GRADIENTS[2:]), whole.data)
    assert second.param_groups[0]["lr"] == 0.1


def test_parameters_without_a_gradient_stay_and_count_their_own_steps():
    used, idle = parameter(1, 2), parameter(1, 2)
    optimizer = optim.AdamW([used, idle], lr=0.1, weight_decay=0.5)
    take(optimizer, used, GRADIENTS[:1])
    assert idle.tolist() == [1, 2] and list(optimizer.state) == [used]
    alone = parameter(1, 2)
    expected = take(optim.AdamW([alone], lr=0.1, weight_decay=0.5), alone)
    for grad in GRADIENTS:
        optimizer.zero_grad()
        idle.grad = np.array(grad)
        optimizer.step()
    assert_array_equal(idle.data, expected)
    assert [optimizer.state[p]["step"] for p in (used, idle)] == [1, 3]


def test_a_state_that_is_loaded_replaces_what_was_there():
    p, fresh = parameter(1, 2), parameter(1, 2)
    optimizer = optim.Adam([p], lr=0.1)
    empty = optimizer.state_dict()
    take(optimizer, p)
    p.data[:] = 1, 2
    optimizer.load_state_dict(empty)
    assert not optimizer.state
    assert_array_equal(take(optimizer, p), take(optim.Adam([fresh], lr=0.1), fresh))


def test_gradients_may_be_set():
    p = parameter(1, 2)
    p.grad = nn.Tensor(np.ones(2))
    optim.SGD([p], lr=1.0).step()
    assert p.tolist() == [0, 1] and isinstance(p.grad, np.ndarray)
    with pytest.raises(ValueError, match=r"shape \(1,\) for a tensor of \(2,\)"):
        p.grad = np.ones(1)


def test_zero_grad():
    p = parameter(1, 2)
    optimizer = optim.SGD([p], lr=0.1, weight_decay=0.5)
    p.grad = np.ones(2)
    optimizer.zero_grad()
    optimizer.step()
    assert p.grad is None and p.tolist() == [1, 2]
    p.grad = np.ones(2)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert p.grad.tolist() == [0, 0] and p.tolist() == [0.95, 1.9]


def test_models_forget_their_gradients_and_those_of_flat_buffers_stay_bound():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.1)

    def learn():
        model[0](nn.Tensor(np.ones((1, 2), np.float32))).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        before = [p.data.copy() for p in model.parameters()]
        optimizer.step()
        pairs = zip(before, model.parameters(), strict=True)
        assert [(old != p.data).any() for old, p in pairs] == [True, True, False, False]

    learn()
    model.zero_grad(set_to_none=False)
    assert [p.grad is None for p in model.parameters()] == [False, False, True, True]
    assert not model[0].weight.grad.any()
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    flat = nn.FlatParameters(model)
    learn()
    for forget in (flat.zero_grad, model.zero_grad, optimizer.zero_grad):
        forget()
        assert not flat.grad.any()
        forget()
        learn()
        assert np.shares_memory(model[0].weight.grad, flat.grad) and flat.grad.any()
    model[0].weight.grad = np.full((2, 2), 7, np.float32)
    assert (flat.grad == 7).sum() == 4


def test_groups_have_options_of_their_own_that_may_change():
    a, b, c = (parameter(1) for _ in range(3))
    optimizer = optim.SGD([{"params": a}, {"params": [b], "lr": 1.0, "name": "b"}], lr=0.5)
    optimizer.add_param_group({"params": iter([c]), "weight_decay": 0.1})
    for p in (a, b, c):
        p.grad = np.array([0.1])
    optimizer.step()
    assert_allclose([p.item() for p in (a, b, c)], [0.95, 0.9, 0.9])
    for group in optimizer.param_groups:
        group["lr"] *= 0.1
        group["momentum"] = 0.9
    optimizer.step()
    assert_allclose([p.item() for p in (a, b, c)], [0.945, 0.89, 0.8905])
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.1, 0.05]
    assert optimizer.param_groups[1]["name"] == "b" and optimizer.param_groups[2]["params"] == [c]
    assert "Parameter Group 2" in repr(optimizer) and "lr: 0.1" in repr(optimizer)


def test_a_closure_computes_the_loss():
    p = parameter(2)
    optimizer = optim.SGD([p], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with no_grad():
        assert optimizer.step(closure).item() == 4
    assert p.item() == 1


def test_a_model_learns_as_with_flat_parameters():
    found = []
    for flat in (False, True):
        nn.random.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        if flat:
            buffers = nn.FlatParameters(model)
            optimizer = optim.Adam(buffers, 0.1, weight_decay=0.1)
        else:
            optimizer = optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
        assert isinstance(optimizer, optim.Adam if flat else optim.Optimizer)
        for step in range(5):
            x = nn.Tensor(np.random.default_rng(step).standard_normal((4, 3)).astype(np.float32))
            (buffers if flat else optimizer).zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        found.append([p.data.copy() for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert_array_equal(one, other)


def test_what_parameters_may_be():
    first = nn.Linear(2, 3)
    half = Parameter(np.ones(2))  # of another dtype
    empty, number = Parameter(np.ones((0, 2))), parameter(1).view(()).detach().requires_grad_()
    turned = Parameter(np.arange(6.0).reshape(2, 3).T)
    optimizer = optim.AdamW([*first.parameters(), half, empty, number, turned], lr=0.1)
    other = optim.SGD([half], lr=0.5)
    for p in optimizer.param_groups[0]["params"]:
        p.grad = np.ones(p.shape, p.dtype)
    optimizer.step()
    other.step()
    half.data = np.zeros(2)  # replaced
    optimizer.step()
    assert_allclose(half.data, [-0.1, -0.1], atol=0.01)
    assert_allclose(turned.data, np.arange(6.0).reshape(2, 3).T - 0.2, atol=0.02)
    assert_allclose(number.item(), 0.8, atol=0.01)
    named = optim.SGD(nn.Linear(2, 2).named_parameters(), lr=0.1)
    assert named.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optim.SGD(params=(p for p in [half]), lr=nn.Tensor(0.5)).param_groups[0]["params"] == [
        half
    ]


WEIGHT = parameter(1.0)
REFUSED = {
    "nothing": (lambda: optim.AdamW([]), ValueError, "empty parameter list"),
    "an exhausted iterator": (lambda: optim.SGD(iter(())), ValueError, "empty parameter list"),
    "a tensor": (lambda: optim.AdamW(WEIGHT), TypeError, "iterable of Tensors or dicts"),
    "a module": (lambda: optim.AdamW(nn.Linear(1, 1)), TypeError, "iterable of Tensors"),
    "an array": (lambda: optim.SGD([np.ones(2)]), TypeError, "only optimize Tensors.*ndarray"),
    "a set": (lambda: optim.SGD([{"params": {WEIGHT}}]), TypeError, "order of a set"),
    "twice": (lambda: optim.SGD([WEIGHT, WEIGHT]), ValueError, "duplicate parameters"),
    "in two groups": (
        lambda: optim.SGD([{"params": WEIGHT}, {"params": [WEIGHT]}]),
        ValueError,
        "more than one parameter group",
    ),
    "no leaf": (lambda: optim.SGD([WEIGHT * 2]), ValueError, "non-leaf"),
    "lr": (lambda: optim.SGD([WEIGHT], lr=-1.0), ValueError, "Invalid learning rate: -1.0"),
    "lr nan": (lambda: optim.SGD([WEIGHT], lr=math.nan), ValueError, "Invalid learning rate"),
    "lr of a group": (lambda: optim.SGD([{"params": WEIGHT, "lr": -1}]), ValueError, "rate: -1"),
    "betas": (lambda: optim.Adam([WEIGHT], betas=(0.9, 1.0)), ValueError, "index 1: 1.0"),
    "eps": (lambda: optim.AdamW([WEIGHT], eps=-1.0), ValueError, "Invalid eps value: -1.0"),
    "decay": (lambda: optim.AdamW([WEIGHT], weight_decay=-1), ValueError, "weight_decay value: -1"),
    "momentum": (lambda: optim.SGD([WEIGHT], momentum=-1), ValueError, "momentum value: -1"),
    "nesterov": (lambda: optim.SGD([WEIGHT], nesterov=True), ValueError, "momentum above 0"),
    "dampened nesterov": (
        lambda: optim.SGD([WEIGHT], momentum=0.9, dampening=0.1, nesterov=True),
        ValueError,
        "no dampening",
    ),
    "an unknown option": (
        lambda: optim.SGD([WEIGHT], beta=1),
        TypeError,
        "argument 'beta'.*momentum",
    ),
    "an option of flat ones": (
        lambda: optim.AdamW([WEIGHT], learning_rate=1),
        TypeError,
        "'learning_rate'.*takes lr",
    ),
    "differentiable": (
        lambda: optim.SGD([WEIGHT], differentiable=True),
        ValueError,
        "differentiable",
    ),
    "Muon of vectors": (lambda: optim.Muon([WEIGHT]), ValueError, "2D parameters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    make, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("change", ["groups", "sizes", "another"])
def test_a_state_that_does_not_fit_is_refused(change):
    p = parameter(1, 2)
    optimizer = optim.AdamW([p])
    take(optimizer, p)
    state = optimizer.state_dict()
    if change == "groups":
        state["param_groups"] *= 2
    elif change == "sizes":
        state["param_groups"][0]["params"] = [0, 1]
    else:
        state["state"][0] = {"momentum_buffer": np.ones(2)}
    with pytest.raises((ValueError, KeyError), match=r"number of|size of|momentum_buffer"):
        optim.AdamW([p]).load_state_dict(state)


class SignSGD(optim.Optimizer):
    """An optimizer as users write them."""

    def __init__(self, params, lr=0.1, momentum=0.5):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def step(self, closure=None):
        with no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    if not state:
                        state["mean"] = nn.Tensor(np.zeros(p.shape))
                    state["mean"].mul_(group["momentum"]).add_(p.grad)
                    p.add_(state["mean"].sign(), alpha=-group["lr"])


def test_optimizers_can_be_written_by_hand():
    p = parameter(1, 2)
    optimizer = SignSGD([p])
    assert_allclose(take(optimizer, p), [0.9, 1.9])
    again = SignSGD([p])
    again.load_state_dict(optimizer.state_dict())
    assert_allclose(take(again, p, [[0.0, -9.0]]), [1.0, 2.0])


# -- schedulers ------------------------------------------------------------------------------------


SCHEDULERS = {  # the first group's rates from 1, at some of ten steps
    "StepLR": (lambda s, o: s.StepLR(o, 3, 0.5), {0: 1, 2: 1, 3: 0.5, 6: 0.25, 9: 0.125}),
    "MultiStepLR": (lambda s, o: s.MultiStepLR(o, [2, 5], 0.5), {1: 1, 2: 0.5, 4: 0.5, 5: 0.25}),
    "LambdaLR": (lambda s, o: s.LambdaLR(o, lambda e: 1 / (e + 1)), {0: 1, 1: 0.5, 9: 0.1}),
    "LambdaLR of each": (
        lambda s, o: s.LambdaLR(o, [lambda e: 0.5**e, lambda e: 1.0]),
        {0: 1, 1: 0.5, 3: 0.125},
    ),
    "ConstantLR": (lambda s, o: s.ConstantLR(o, 0.25, 3), {0: 0.25, 2: 0.25, 3: 1, 9: 1}),
    "LinearLR": (lambda s, o: s.LinearLR(o, 0.5, 1.0, 4), {0: 0.5, 1: 0.625, 4: 1, 9: 1}),
    "ExponentialLR": (lambda s, o: s.ExponentialLR(o, 0.5), {0: 1, 1: 0.5, 4: 0.0625}),
    "CosineAnnealingLR": (
        lambda s, o: s.CosineAnnealingLR(o, 4, 0.2),
        {0: 1, 2: 0.6, 4: 0.2, 6: 0.6, 8: 1},
    ),
    "OneCycleLR": (lambda s, o: s.OneCycleLR(o, 1.0, 12), {0: 0.04, 3: 0.9944152}),
    "OneCycleLR by epochs": (
        lambda s, o: s.OneCycleLR(o, [2.0, 3.0], epochs=3, steps_per_epoch=4, pct_start=0.5),
        {0: 0.08, 5: 2},
    ),
    "SequentialLR": (
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.5, 1.0, 4), s.ExponentialLR(o, 0.5)], [4]),
        {0: 0.5, 1: 0.625, 4: 1, 5: 0.5, 6: 0.25},
    ),
    "two at once": (
        lambda s, o: [s.ConstantLR(o, 0.5, 2), s.ExponentialLR(o, 0.5)],
        {0: 0.5, 1: 0.25, 2: 0.25, 3: 0.125},
    ),
}


def trained(library, make, steps=10):
    """The rates and momenta of two groups at each step."""
    groups = [{"params": p} for p in (library.weight(), library.weight())]
    groups[1]["lr"] = 2.0
    optimizer = library.optim.SGD(groups, lr=1.0, momentum=0.9)
    made = make(library.optim.lr_scheduler, optimizer)
    schedulers, found = made if isinstance(made, list) else [made], []
    for _ in range(steps):
        found.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
        assert schedulers[-1].get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return np.array(found)


class Ringlet:
    optim, weight = optim, staticmethod(lambda: parameter(1))


@pytest.mark.parametrize("case", SCHEDULERS)
def test_schedulers(case):
    make, expected = SCHEDULERS[case]
    found = trained(Ringlet, make)
    for step, rate in expected.items():
        assert_allclose(found[step, 0, 0], rate, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("case", SCHEDULERS)
@pytest.mark.filterwarnings("ignore")
def test_schedulers_are_pytorchs(case):
    torch = pytest.importorskip("torch")
    torch.weight = lambda: torch.nn.Parameter(torch.ones(1))
    make, _ = SCHEDULERS[case]
    assert_allclose(trained(Ringlet, make), trained(torch, make), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", SCHEDULERS)
def test_schedulers_continue_from_their_state(case):
    make, _ = SCHEDULERS[case]
    whole = trained(Ringlet, make)
    optimizers = [
        optim.SGD([{"params": parameter(1)}, {"params": parameter(1), "lr": 2.0}], 1.0, 0.9)
        for _ in range(2)
    ]
    first, second = (
        made if isinstance(made := make(optim.lr_scheduler, each), list) else [made]
        for each in optimizers
    )
    for _ in range(5):
        for scheduler in first:
            scheduler.step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for one, other in zip(first, second, strict=True):
        other.load_state_dict(one.state_dict())
    for step in range(5, 10):
        assert_allclose(optimizers[1].param_groups[1]["lr"], whole[step, 1, 0], rtol=1e-12)
        for scheduler in second:
            scheduler.step()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_a_plateau_lowers_the_rate(mode, threshold_mode):
    optimizer = optim.SGD([parameter(1)], lr=1.0)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, 0.5, patience=1, threshold=0.1, threshold_mode=threshold_mode, cooldown=1,
        min_lr=0.2,
    )  # fmt: skip
    sign, found = (1 if mode == "min" else -1), []
    for figure in (5, 4, 3.95, 3.95, 3.95, 3.95, 3.95, 3.95, 3.95, 3.95):
        scheduler.step(nn.Tensor(10 + sign * figure) if threshold_mode == "abs" else figure)
        found.append(optimizer.param_groups[0]["lr"])
    if mode == "max" and threshold_mode == "rel":
        assert found == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2]
    else:
        assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2]


def test_what_schedulers_refuse():
    schedulers, optimizer = optim.lr_scheduler, optim.Adagrad([parameter(1)])
    flat = optim.SGD(nn.FlatParameters(nn.Linear(1, 1)), 0.1)
    for make, kind, message in (
        (lambda: schedulers.StepLR(flat, 3), TypeError, "not an Optimizer of parameters"),
        (lambda: schedulers.LambdaLR(optimizer, [len, len]), ValueError, "Expected 1 lr_lambdas"),
        (lambda: schedulers.LinearLR(optimizer, 0.0), ValueError, "Starting multiplicative"),
        (lambda: schedulers.ConstantLR(optimizer, 2.0), ValueError, "between 0 and 1"),
        (lambda: schedulers.OneCycleLR(optimizer, 1.0, 9), ValueError, "must support momentum"),
        (lambda: schedulers.OneCycleLR(optimizer, 1.0), ValueError, "needs total_steps"),
        (
            lambda: schedulers.StepLR(optim.SGD([parameter(1)]), 3, last_epoch=2),
            KeyError,
            "initial_lr",
        ),
        (lambda: schedulers.ReduceLROnPlateau(optimizer, factor=1.0), ValueError, "< 1.0"),
    ):
        with pytest.raises(kind, match=message):
            make()


# -- clipping --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm_type", "expected"), [(2.0, 13.0), (1, 19.0), (math.inf, 12.0), ("inf", 12.0), (3, None)]
)
def test_gradients_of_parameters_are_clipped_by_their_norm(norm_type, expected):
    a, b, without = parameter(1, 2), parameter(1), parameter(1)
    a.grad, b.grad = np.array([3.0, -4.0]), np.array([12.0])
    norm = nn.utils.clip_grad_norm_(iter([a, b, without]), 1.0, norm_type)
    assert_allclose(norm.item(), expected or (27 + 64 + 1728) ** (1 / 3), rtol=1e-12)
    assert_allclose(a.grad, np.array([3.0, -4.0]) / norm.item(), rtol=1e-6)
    assert without.grad is None and nn.utils.clip_grad_norm_([without], 1.0).item() == 0
    before = b.grad.copy()
    nn.utils.clip_grad_norm_(b, 1e9)
    assert_array_equal(b.grad, before)


def test_gradients_of_parameters_are_clipped_by_value():
    a, without = parameter(1, 2), parameter(1)
    a.grad = np.array([3.0, -0.5])
    nn.utils.clip_grad_value_([a, without], 1.0)
    assert a.grad.tolist() == [1, -0.5]
    nn.utils.clip_grad_value_(a, clip_value=0.25)
    assert a.grad.tolist() == [0.25, -0.25]
    a.grad = np.array([math.nan, 1])
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_([a], 1.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match="must not be negative"):
        nn.utils.clip_grad_value_([a], -1.0)
