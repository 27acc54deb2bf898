"""What modules hold besides layers: buffers, tied parameters, states; and the recording modes."""

import copy

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import Tensor


class Masked(nn.Module):
    """A parameter, a tied one, two buffers, and a layer."""

    def __init__(self):
        super().__init__()
        self.register_parameter("none", None)
        self.register_parameter("scale", nn.Parameter(np.ones(2, np.float32)))
        self.register_buffer("mask", Tensor(np.tri(2, dtype=np.float32)))
        self.register_buffer("cache", Tensor(np.zeros(3, np.float32)), persistent=False)
        self.add_module("first", nn.Linear(2, 2, bias=False))
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight


def names(pairs):
    return [name for name, _ in pairs]


def test_buffers_are_no_parameters_and_states_hold_the_persistent_ones():
    model = Masked()
    assert names(model.named_parameters()) == ["scale", "first.weight"]
    assert names(model.named_buffers()) == ["mask", "cache"]
    assert list(model.state_dict()) == ["scale", "mask", "first.weight", "second.weight"]
    model.mask = model.mask[:1]  # still the buffer
    assert model.state_dict()["mask"].shape == (1, 2)
    assert names(nn.Sequential(model).named_buffers()) == ["0.mask", "0.cache"]
    assert copy.deepcopy(model).get_buffer("cache") is not model.cache
    with pytest.raises(KeyError, match="can be named 'forward'"):
        model.register_buffer("forward", None)
    with pytest.raises(TypeError, match="mask is a list; it must be a Tensor"):
        model.register_buffer("mask", [1])


def test_states_write_through_and_tied_parameters_need_one_name():
    model, other = Masked(), Masked()
    nn.init.ones_(model.state_dict()["second.weight"])
    assert (model.first.weight.data == 1).all()
    state = model.state_dict()
    del state["first.weight"]
    assert other.load_state_dict(state) == ([], [])
    assert (other.first.weight.data == 1).all()
    del state["second.weight"], state["mask"]
    found = other.load_state_dict({**state, "extra": np.ones(1)}, strict=False)
    assert found.missing_keys == ["mask", "first.weight", "second.weight"]
    assert found.unexpected_keys == ["extra"]
    with pytest.raises(KeyError, match=r"missing: mask, first\.weight, second\.weight"):
        other.load_state_dict(state)


def test_modules_are_found_visited_and_frozen():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.Identity()))
    assert names(model.named_modules()) == ["", "0", "1", "1.1"]
    assert [type(each).__name__ for each in model.children()] == ["Linear", "Sequential"]
    visited = []
    assert model.apply(visited.append) is model
    assert visited == [shared, shared, model[1][1], model[1], model]
    assert model.get_submodule("1.0") is shared and model.get_parameter("0.bias") is shared.bias
    with pytest.raises(AttributeError, match="0 is a Linear, no Parameter"):
        model.get_parameter("0")
    assert not any(p.requires_grad for p in model.requires_grad_(False).parameters())
    assert names(model.named_parameters("here", recurse=False)) == []
    assert len(names(model.named_parameters(remove_duplicate=False))) == 4


def test_modules_are_cast_before_they_have_gradients():
    model = Masked().double()
    assert {t.dtype for t in model.state_dict().values()} == {np.dtype(np.float64)}
    assert model.first.weight is model.second.weight
    assert model.to("cpu").to(model.scale.device, np.float32).scale.dtype == np.float32
    with pytest.raises(RuntimeError, match=r"device cuda:1: this process computes with numpy"):
        model.cuda(1)
    with pytest.raises(TypeError, match="floating-point, not int64"):
        model.to(np.int64)
    nn.FlatParameters(model)
    assert model.float() is model
    with pytest.raises(RuntimeError, match="scale has a gradient: cast the model before"):
        model.half()


def layers(count):
    return [nn.Linear(2, number + 1) for number in range(count)]


def test_lists_of_modules_grow_and_shrink():
    made, extra = nn.ModuleList(layers(2)), layers(3)
    made.append(extra[0]).extend(extra[1:2])
    made.insert(1, extra[2])
    made += [nn.Identity()]
    del made[0]
    made[-1] = nn.GELU()
    assert [type(x).__name__ for x in made] == ["Linear"] * 4 + ["GELU"]
    assert made[0] is extra[2] and len(made) == 5
    assert names(made.named_children()) == list("01234")
    with pytest.raises(TypeError, match="'5' is of type int"):
        made.append(3)


def test_dicts_of_modules_are_dicts():
    made = nn.ModuleDict({"a": nn.Identity()})
    made["b"] = nn.Linear(1, 1)
    made.update([("c", nn.GELU())])
    assert list(made) == list(made.keys()) == ["a", "b", "c"] and "b" in made and "d" not in made
    assert made.pop("a") is not None
    assert names(made.items()) == ["b", "c"] and list(made.values()) == [*made.children()]
    with pytest.raises(KeyError, match="nothing"):
        made["nothing"]


def test_parameters_in_containers_learn():
    made = nn.Module()
    made.rows = nn.ParameterList([Tensor(np.ones(2)), nn.Parameter(np.ones(1))])
    made.named = nn.ParameterDict({"scale": Tensor(np.ones(3))})
    assert names(made.named_parameters()) == ["rows.0", "rows.1", "named.scale"]
    (made.rows[0].sum() * made.named["scale"].sum()).backward()
    np.testing.assert_array_equal(made.rows[0].grad, [3, 3])


# -- recording ------------------------------------------------------------------------------------


X = Tensor(np.ones(2), requires_grad=True)


@nn.no_grad()
def plain():
    return (X * 2).requires_grad


@nn.no_grad
def bare():
    return (X * 2).requires_grad


@nn.inference_mode()
def inferred():
    return (X * 2).requires_grad


@nn.enable_grad()
def enabled():
    return (X * 2).requires_grad


@pytest.mark.parametrize("function", [plain, bare, inferred, enabled])
def test_decorated_functions_have_their_mode_and_their_name(function):
    with nn.no_grad():
        assert function() is (function is enabled)
        assert not nn.is_grad_enabled()
    assert function() is (function is enabled)
    assert nn.is_grad_enabled()
    assert function.__name__ in ("plain", "bare", "inferred", "enabled")


def test_a_decorated_generator_records_nothing_and_its_caller_does():
    ends = []

    @nn.no_grad()
    def steps():
        try:
            got = yield (X * 2).requires_grad
            try:
                yield got, (X * 2).requires_grad
            except KeyError:
                yield "caught", (X * 2).requires_grad
            yield
        finally:
            ends.append((X * 2).requires_grad)
        return "end"

    made = steps()
    assert next(made) is False and nn.is_grad_enabled()
    assert made.send(3) == (3, False) and nn.is_grad_enabled()
    assert made.throw(KeyError()) == ("caught", False)
    made.close()
    assert ends == [False] and nn.is_grad_enabled()

    def outer():
        return (yield from steps())

    made = outer()
    assert len(list(made)) == 3 and ends == [False, False]


def test_grad_can_be_switched_for_the_rest_of_the_thread():
    try:
        nn.set_grad_enabled(False)
        assert not nn.is_grad_enabled()
        with nn.set_grad_enabled(True):
            assert nn.is_grad_enabled()
        assert not nn.is_grad_enabled()
        decorate = nn.set_grad_enabled(True)(lambda: nn.is_grad_enabled())
        assert decorate() and not nn.is_grad_enabled()
        with nn.inference_mode(False):
            assert not nn.is_grad_enabled()
    finally:
        nn.set_grad_enabled(True)
