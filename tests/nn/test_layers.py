"""Positions, initial values, and what layers refuse. Numbers are PyTorch's: test_against_torch."""

import math

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import Tensor
from ringlet.nn import functional as F


def normal(*shape):
    return Tensor(np.random.default_rng(0).standard_normal(shape))


# -- positions ------------------------------------------------------------------------------------


def test_rotated_queries_and_keys_know_their_distance_only():
    rotary = nn.RotaryEmbedding(8)
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8) + 1
    scores = [(rotary(q, i + 3) * rotary(k, i)).sum().item() for i in (0, 5, 400)]
    np.testing.assert_allclose(scores, scores[0])
    assert not np.isclose((rotary(q, 4) * rotary(k, 0)).sum().item(), scores[0])


def test_rotation_is_llamas():
    x = normal(2, 3, 8)
    angles = np.arange(3)[:, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    turned = (x.data[..., :4] + 1j * x.data[..., 4:]) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(nn.RotaryEmbedding(8)(x).data, expected, atol=1e-12)
    pairs = x.data.reshape(2, 3, 4, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    expected = np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
    interleaved = nn.RotaryEmbedding(8, interleaved=True)
    np.testing.assert_allclose(interleaved(x, np.arange(3)).data, expected, atol=1e-12)
    partial = nn.RotaryEmbedding(4)(x).data
    np.testing.assert_array_equal(partial[..., 4:], x.data[..., 4:])


def test_each_sample_may_have_its_own_positions():
    x, rotary = normal(2, 3, 4, 8), nn.RotaryEmbedding(8, base=100.0)
    own = rotary(x, np.array([[[0, 1, 2, 3]], [[7, 8, 9, 10]]])).data
    np.testing.assert_array_equal(own[0], rotary(x).data[0])
    np.testing.assert_array_equal(own[1], rotary(x, 7).data[1])


def test_sinusoids():
    table = nn.SinusoidalPositions(6).table(np.arange(4))
    for position in range(4):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            assert table[position, 2 * pair] == pytest.approx(math.sin(angle))
            assert table[position, 2 * pair + 1] == pytest.approx(math.cos(angle))
    x = normal(2, 3, 6)
    np.testing.assert_allclose(nn.SinusoidalPositions(6)(x, 1).data, x.data + table[1:])


def test_learned_positions():
    layer = nn.LearnedPositions(5, 4)
    x = Tensor(np.ones((2, 3, 4), np.float32))
    y = layer(x, first=2)
    np.testing.assert_array_equal(y.data[1], 1 + layer.weight.data[2:])
    y.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad[:, 0], [0, 0, 2, 2, 2])
    with pytest.raises(ValueError, match="6 positions exceed a table of 5"):
        layer(x, first=3)


def test_t5s_buckets():
    both, back = nn.RelativePositionBias(2), nn.RelativePositionBias(2, 8, 20, bidirectional=False)
    distances = np.array([-200, -128, -20, -8, -7, -1, 0, 1, 8, 12, 90, 128])
    expected = [15, 15, 10, 8, 7, 1, 0, 17, 24, 25, 30, 31]  # of T5's own code
    assert both.bucket(distances).tolist() == expected
    assert back.bucket(distances).tolist() == [7, 7, 7, 5, 5, 1, 0, 0, 0, 0, 0, 0]
    bias = both(3, 5, first=2)
    assert bias.shape == (1, 2, 3, 5)
    weight = both.relative_attention_bias.weight
    np.testing.assert_array_equal(bias.data[0, :, 1, 0], weight.data[3])
    bias.sum().backward()
    assert weight.grad.sum() == 30


# -- attention ------------------------------------------------------------------------------------


def test_queries_that_see_no_key_get_zeros():
    q = Tensor(normal(1, 2, 3, 4).data, requires_grad=True)
    seen = np.array([[True, True, True], [False, False, False], [True, False, True]])
    y = F.scaled_dot_product_attention(q, q, q, seen)
    assert (y.data[:, :, 1] == 0).all()
    y.sum().backward()
    assert np.isfinite(q.grad).all()


def test_attention_dropout_is_on_the_probabilities():
    value = Tensor(np.eye(50)[None, None])
    zeros = Tensor(np.zeros((1, 1, 50, 8)))
    with nn.random.scope(seed=1, step=2):
        y = F.scaled_dot_product_attention(zeros, zeros, value, dropout_p=0.25, path="here").data
    assert set(np.round(np.unique(y) * 50, 9)) == {0.0, round(1 / 0.75, 9)}
    assert abs((y == 0).mean() - 0.25) < 0.05


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(1, 2, 3, 4), (1, 2, 5, 3), (1, 2, 5, 4)], {}, r"\(1, 2, 3, 4\).*\(1, 2, 5, 3\)"),
        ([(1, 3, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)], {"enable_gqa": True}, "do not match"),
        ([(1, 4, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)], {}, "4 query and 2 key heads need enable_gqa"),
        ([(1, 2, 6, 4)] + [(1, 2, 5, 4)] * 2, {"is_causal": True}, "6 queries to only 5 keys"),
        ([(1, 2, 3, 4)] * 3, {"attn_mask": np.ones((4, 3))}, r"\(4, 3\).*\(1, 2, 3, 3\)"),
        ([(1, 2, 3, 4)] * 3, {"dropout_p": 1.0}, "probability is 1.0"),
        ([(1, 2, 3, 4)] * 3, {"window": 2}, "a window of 2 keys; it is for causal attention"),
        ([(1, 2, 3, 4)] * 3, {"is_causal": True, "window": -1}, "a window of -1 keys"),
    ],
)
def test_attention_that_does_not_fit_is_refused(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        F.scaled_dot_product_attention(*(normal(*shape) for shape in shapes), **options)


@pytest.mark.parametrize("window", [1, 3, 64, 200, 2000])
@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (130, 300), (300, 300), (260, 1100)])
def test_a_window_is_a_mask(queries, keys, window):
    """In several blocks of queries and tiles of keys, with kept exponentials and without."""
    shapes = [(2, 4, queries, 4), (2, 2, keys, 4), (2, 2, keys, 4)]
    arrays = [np.random.default_rng(n).standard_normal(s) for n, s in enumerate(shapes)]
    distance = np.arange(queries)[:, None] + keys - queries - np.arange(keys)
    seen = (distance >= 0) & (distance < window)
    found = []
    for how in ({"is_causal": True, "window": window}, {"attn_mask": seen}):
        inputs = [Tensor(array, requires_grad=True) for array in arrays]
        y = F.scaled_dot_product_attention(*inputs, enable_gqa=True, **how)
        y.backward(arrays[0])
        found.append([y.data, *(x.grad for x in inputs)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


def test_multi_head_attention_refuses():
    with pytest.raises(ValueError, match="width of 8 is not divisible by 3 heads"):
        nn.MultiheadAttention(8, 3)
    layer, x = nn.MultiheadAttention(8, 2), Tensor(np.zeros((3, 2, 8), np.float32))
    with pytest.raises(ValueError, match=r"key_padding_mask of shape \(3, 2\) does not match 2"):
        layer(x, x, x, key_padding_mask=np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match=r"\(2, 3, 8\).*\(1, 3, 8\)"):
        layer(x, x[:, :1], x[:, :1])


# -- losses ---------------------------------------------------------------------------------------


def test_cross_entropy_refuses():
    x = normal(3, 4)
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.5"):
        F.cross_entropy(x, np.zeros(3, int), label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"weights of shape \(3,\) do not match 4 classes"):
        F.cross_entropy(x, np.zeros(3, int), weight=np.ones(3))
    with pytest.raises(ValueError, match="'most'"):
        F.cross_entropy(x, np.zeros(3, int), reduction="most")


# -- initial values -------------------------------------------------------------------------------


def draws(function, *shape, **options):
    nn.random.manual_seed(3)
    tensor = Tensor(np.empty(shape, np.float32))
    assert function(tensor, **options) is tensor
    again = Tensor(np.empty(shape, np.float32))
    nn.random.manual_seed(3)
    function(again, **options)
    np.testing.assert_array_equal(tensor.data, again.data)
    return tensor.data


RELU = {"nonlinearity": "relu"}


@pytest.mark.parametrize(
    ("function", "options", "std", "bound"),
    [
        (nn.init.uniform_, {"a": -2, "b": 2}, 2 / math.sqrt(3), 2),
        (nn.init.normal_, {"mean": 0, "std": 0.5}, 0.5, math.inf),
        (nn.init.trunc_normal_, {"std": 1, "a": -1, "b": 1}, 0.5396, 1),
        (nn.init.xavier_uniform_, {"gain": 2}, 2 * math.sqrt(2 / 300), 2 * math.sqrt(6 / 300)),
        (nn.init.xavier_normal_, {}, math.sqrt(2 / 300), math.inf),
        (
            nn.init.kaiming_uniform_,
            {"nonlinearity": "relu"},
            math.sqrt(2 / 200),
            math.sqrt(6 / 200),
        ),
        (nn.init.kaiming_normal_, {"a": 1, "mode": "fan_out"}, math.sqrt(1 / 100), math.inf),
    ],
)
def test_deviations_of_initial_values(function, options, std, bound):
    values = draws(function, 100, 200, **options)
    assert values.std() == pytest.approx(std, rel=0.03)
    assert abs(values.mean()) < 0.03 * std
    assert np.abs(values).max() <= bound * (1 + 1e-6)


def test_other_initial_values():
    np.testing.assert_allclose(
        (tall := draws(nn.init.orthogonal_, 6, 4, gain=2)).T @ tall, 4 * np.eye(4), atol=1e-5
    )
    np.testing.assert_array_equal(draws(nn.init.eye_, 2, 3), np.eye(2, 3))
    assert (draws(nn.init.constant_, 2, val=7) == 7).all()
    assert draws(nn.init.ones_, 2).sum() == 2
    assert draws(nn.init.zeros_, 2).sum() == 0
    first, second = (nn.init.normal_(Tensor(np.empty(3))).data for _ in range(2))
    assert not np.array_equal(first, second)
    assert nn.init.calculate_gain("leaky_relu", 2) == pytest.approx(math.sqrt(2 / 5))


def test_initial_values_that_cannot_be_are_refused():
    vector = Tensor(np.empty(3))
    for function in (nn.init.xavier_normal_, nn.init.orthogonal_, nn.init.eye_):
        with pytest.raises(ValueError, match=r"shape \(3,\)"):
            function(vector)
    with pytest.raises(ValueError, match="hardly ever"):
        nn.init.trunc_normal_(vector, a=50, b=51)
    with pytest.raises(ValueError, match="'softsign'; known are linear"):
        nn.init.calculate_gain("softsign")


# -- tables with a row for padding, and targets that are probabilities ----------------------------


def test_the_row_for_padding_is_zeros_and_learns_nothing():
    table = nn.Embedding(5, 3, padding_idx=-2)
    assert repr(table) == "Embedding(5, 3, padding_idx=3)"
    assert not table(np.array([3])).data.any() and table(np.array([2])).data.all()
    table(np.array([[3, 1], [3, 3]])).sum().backward()
    np.testing.assert_array_equal(table.weight.grad[:, 0], [0, 1, 0, 0, 0])
    for beyond in (5, -6):
        with pytest.raises(ValueError, match=f"padding_idx is {beyond}; the table has 5 rows"):
            nn.Embedding(5, 3, padding_idx=beyond)


def test_certain_probabilities_are_ids():
    logits, ids = normal(4, 3), np.array([2, 0, 1, 1])
    certain = F.one_hot(ids, 3).data.astype(np.float64)
    for reduction in ("mean", "sum", "none"):
        options = {"reduction": reduction, "label_smoothing": 0.1}
        np.testing.assert_allclose(
            F.cross_entropy(logits, certain, **options).data,
            F.cross_entropy(logits, ids, **options).data,
        )
    with pytest.raises(ValueError, match=r"\(4, 3\) and probabilities of \(4, 2\) do not match"):
        F.cross_entropy(logits, certain[:, :2])
