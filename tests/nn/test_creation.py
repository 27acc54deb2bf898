"""New tensors, PyTorch's top-level names, and what tensors are to Python."""

import importlib.util

import numpy as np
import pytest

import ringlet.nn.torch as torch
from ringlet import nn
from ringlet.nn import Tensor

CASES = {
    "zeros": lambda t: [t.zeros(2, 3), t.zeros((2, 3)), t.zeros([2]), t.zeros(size=(1, 2))],
    "no axes": lambda t: [t.zeros(()), t.ones([]), t.full((), 2)],
    "dtypes": lambda t: [t.ones(2, dtype=t.long), t.zeros(1, dtype=t.bool), t.ones(1).half()],
    "full": lambda t: [t.full((2,), 7), t.full((2,), 7.0), t.full((1, 2), True)],
    "full of a dtype": lambda t: t.full((2,), 3, dtype=t.float64),
    "eye": lambda t: [t.eye(2), t.eye(2, 3), t.eye(2, dtype=t.int64)],
    "arange": lambda t: [t.arange(5), t.arange(1, 6, 2), t.arange(0), t.arange(5, 0, -2)],
    "arange of floats": lambda t: [t.arange(2.5), t.arange(0, 1, 0.25), t.arange(3, dtype=t.float)],
    "arange to a tensor": lambda t: t.arange(t.tensor(3), t.tensor([5, 9])[1]),
    "linspace": lambda t: [t.linspace(0, 1, 5), t.linspace(1, 2, 1), t.linspace(0, 1, 0)],
    "like": lambda t: [t.zeros_like(t.arange(3)), t.ones_like(t.ones(2), dtype=t.int64)],
    "full_like": lambda t: t.full_like(t.ones(2, 2), 3),
    "tensor": lambda t: [t.tensor([1.5, 2]), t.tensor(3), t.tensor([[True]]), t.tensor([])],
    "tensor of a dtype": lambda t: [t.tensor([1, 2], dtype=t.float64), t.LongTensor([1, 2])],
    "as_tensor": lambda t: [t.as_tensor([1.0, 2.0]), t.as_tensor(t.ones(2), dtype=t.int32)],
    "from_numpy": lambda t: t.from_numpy(np.ones(3)),
    "gradients": lambda t: t.ones(2, requires_grad=True) * 2,
    "device": lambda t: t.ones(1, device=t.device("cpu")).to("cpu").to(t.ones(1).device),
    "names": lambda t: [t.cat([t.ones(1), t.zeros(1)]), t.outer(t.ones(2), t.ones(2)), t.numel],
    "rand": lambda t: [t.rand(2, 3), t.rand_like(t.ones(2, dtype=t.float64)), t.randn((2, 2))],
    "randint": lambda t: [t.randint(9, (2, 3)), t.randint(3, 9, size=(4,)), t.randperm(5)],
    "normal": lambda t: [t.normal(0, 1, (2, 3)), t.normal(t.zeros(2), t.ones(2))],
    "multinomial": lambda t: [
        t.multinomial(t.ones(4), 2),
        t.multinomial(t.ones(2, 4), num_samples=9, replacement=True),
    ],
    "new": lambda t: [t.ones(1).new_zeros(2, 3), t.arange(2).new_full((2,), 5)],
    "empty": lambda t: [t.empty(2, 0), t.empty(3).fill_(2.0), t.empty_like(t.ones(2)).zero_()],
}
DRAWN = {"rand", "randint", "normal", "multinomial"}


def tensors(results):
    results = results if isinstance(results, list) else [results]
    return [each for each in results if hasattr(each, "shape")]


@pytest.mark.parametrize("name", CASES)
def test_new_tensors_are_pytorchs(name):
    own = tensors(CASES[name](torch))
    assert own and all(isinstance(each, Tensor) for each in own)
    if not importlib.util.find_spec("torch"):
        return
    theirs = tensors(CASES[name](importlib.import_module("torch")))
    for mine, other in zip(own, theirs, strict=True):
        assert mine.shape == tuple(other.shape)
        assert str(mine.dtype) == str(other.dtype).removeprefix("torch.")
        assert mine.requires_grad == other.requires_grad
        if name not in DRAWN:
            np.testing.assert_array_equal(mine.data, other.detach().numpy())


def test_draws_are_decided_by_the_seed_or_a_generator():
    def drawn(**options):
        weights = torch.ones(6)
        kinds = [torch.rand(4, **options), torch.randn(4, **options)]
        kinds += [torch.randint(99, (4,), **options), torch.randperm(9, **options)]
        return [
            *kinds,
            torch.multinomial(weights, 6, **options),
            torch.normal(0, 1, (3,), **options),
        ]

    torch.manual_seed(3)
    first, second = drawn(), drawn()
    torch.manual_seed(3)
    for one, other, again in zip(first, second, drawn(), strict=True):
        np.testing.assert_array_equal(one.data, again.data)
        assert (one.data != other.data).any()
    generators = [np.random.default_rng(5) for _ in range(2)]
    both = [drawn(generator=generator) for generator in generators]
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


@pytest.mark.parametrize("replacement", [False, True])
def test_multinomial_draws_in_proportion(replacement):
    weights = torch.tensor([[0.0, 1.0, 3.0, 0.0], [2.0, 0.0, 0.0, 2.0]])
    torch.manual_seed(0)
    firsts = [weights.multinomial(2, replacement) for _ in range(400)]
    firsts = np.array([each.data for each in firsts])  # (400, 2, 2)
    assert abs((firsts[:, 0, 0] == 2).mean() - 0.75) < 0.1
    assert abs((firsts[:, 1, 0] == 3).mean() - 0.5) < 0.1
    assert set(firsts[:, 0].ravel()) == {1, 2} and set(firsts[:, 1].ravel()) == {0, 3}
    assert (firsts[..., 0] != firsts[..., 1]).all() == (not replacement)


REFUSED = {
    "a negative length": (lambda: torch.zeros(-1), ValueError, "a length is -1"),
    "another device": (lambda: torch.ones(1, device="cuda"), RuntimeError, "device cuda"),
    "a step away": (lambda: torch.arange(3, 0), ValueError, "do not lead from 3 to 0"),
    "a step of 0": (lambda: torch.arange(0, 3, 0), ValueError, "steps of 0"),
    "an unknown name": (lambda: torch.compile, AttributeError, "has nothing for torch.compile"),
    "integers with gradients": (
        lambda: torch.ones(1, dtype=torch.long, requires_grad=True), TypeError, "only floating",
    ),
    "a list's length": (lambda: torch.zeros(2, 3, shape=4), TypeError, "'shape'"),
    "too few weights": (
        lambda: torch.multinomial(torch.tensor([0.0, 1.0]), 2), ValueError, "2 cannot be drawn",
    ),
    "a negative weight": (lambda: torch.multinomial(torch.tensor([-1.0]), 1), ValueError, "negat"),
    "a matrix of matrices": (lambda: torch.ones(1, 1, 1).multinomial(1), ValueError, "not 3"),
    "text": (lambda: torch.tensor("a"), TypeError, "holds numbers"),
    "an index of floats": (lambda: [1, 2][torch.tensor(0.0)], TypeError, "of one integer"),
    "a format of many": (lambda: f"{torch.ones(2):.2f}", TypeError, "unsupported format"),
    "a pad that reflects": (
        lambda: nn.functional.pad(torch.ones(2), (1, 1), mode="reflect"), ValueError, "'reflect'",
    ),
    "an unknown cast": (lambda: torch.ones(1).to("mps"), TypeError, "mps"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_name(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


def test_tensors_are_numbers_indices_and_text_to_python():
    loss, place = torch.tensor(2.345678), torch.tensor(1)
    assert f"{loss:.3f} {loss:8.2f} {place:d}" == "2.346     2.35 1"
    assert f"{torch.tensor([1])}".startswith("tensor(")
    assert "%.2f" % loss == "2.35"  # noqa: UP031
    assert (
        [5, 6][place] == 6 and list(range(place)) == [0] and [*"ab"][: torch.tensor([1])] == ["a"]
    )
    assert torch.ones(2).is_floating_point() and not place.is_floating_point()
    assert str(place.device) == "cpu" and place.device.type == "cpu" and place.device.index is None
    assert torch.device("cuda:1") == torch.device("cuda", 1) != torch.device("cuda")
    assert isinstance(place.dtype, torch.dtype) and torch.finfo(loss.dtype).eps < 1e-6


def test_float_casts_have_gradients_and_others_none():
    x = torch.ones(2, requires_grad=True)
    assert not x.long().requires_grad and not x.bool().requires_grad and x.to("cpu") is x
    (x.double() * 3).sum().backward()
    np.testing.assert_array_equal(x.grad, [3, 3])
    assert x.grad.dtype == np.float32
    assert x.to(x, copy=True) is not x
