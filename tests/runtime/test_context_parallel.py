"""Context parallelism: attention on a ring of ranks is attention over the whole sequence."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import functional as F
from ringlet.nn.autograd.operations.tiled_attention import SCORES
from ringlet.nn.autograd.tensor import Tensor
from ringlet.runtime.context.context_parallel import ChunkPair, chunk_pairs, travel, zigzag
from ringlet.runtime.context.ring_attention import (
    GroupedRingAttention,
    RingAttention,
    RingSelfAttention,
)

# -- which positions, which pairs of chunks ---------------------------------------------------


@pytest.mark.parametrize(
    ("length", "size", "rank", "positions"),
    [
        (4, 1, 0, [0, 1, 2, 3]),
        (8, 2, 0, [0, 1, 6, 7]),
        (8, 2, 1, [2, 3, 4, 5]),
        (12, 3, 0, [0, 1, 10, 11]),
        (12, 3, 2, [4, 5, 6, 7]),
        (0, 2, 1, []),
    ],
)
def test_a_rank_holds_an_early_and_a_late_chunk(length, size, rank, positions):
    assert zigzag(length, size, rank).tolist() == positions
    assert zigzag(length, size, rank).dtype == np.int64


@pytest.mark.parametrize("size", range(1, 9))
def test_all_ranks_together_hold_every_position_once(size):
    parts = [zigzag(6 * size, size, rank) for rank in range(size)]
    assert all(len(part) == 6 for part in parts)
    assert sorted(np.concatenate(parts)) == list(range(6 * size))


@pytest.mark.parametrize(
    ("length", "size", "words"),
    [
        (30, 4, "30 positions .* 2 x 4 .* take 24 or 32 positions, or .* size of 1, 3, 5, 15"),
        (6, 4, "take 8 positions, or a context size of 1, 3"),
        (7, 2, "take 4 or 8 positions"),
        (1, 1, "take 2 positions"),
    ],
)  # fmt: skip
def test_a_length_that_does_not_fit_is_told_what_would(length, size, words):
    with pytest.raises(ValueError, match=words):
        zigzag(length, size, 0)


def test_a_rank_outside_the_group_is_refused():
    with pytest.raises(ValueError, match="no rank 2 among 2"):
        zigzag(8, 2, 2)


def chunk(size, rank, part):
    """The number of a rank's early (0) or late (1) chunk in the sequence."""
    return 2 * size - 1 - rank if part else rank


@pytest.mark.parametrize("size", range(1, 9))
def test_every_pair_of_chunks_up_to_the_diagonal_is_computed_once(size):
    computed = Counter(
        (chunk(size, rank, queries), chunk(size, owner, keys))
        for rank in range(size)
        for owner in range(size)
        for queries, keys, _ in chunk_pairs(rank, owner)
    )
    assert computed == Counter((q, k) for q in range(2 * size) for k in range(q + 1))


@pytest.mark.parametrize("size", range(1, 9))
def test_every_rank_has_the_same_work_in_each_step_of_the_ring(size):
    for step in range(size):
        for rank in range(size):
            pairs = chunk_pairs(rank, (rank + step) % size)
            assert sum(0.5 if pair.diagonal else 1 for pair in pairs) == 2
            assert len(pairs) == (3 if step == 0 else 2)
    assert chunk_pairs(3, 3) == (ChunkPair(0, 0, True), ChunkPair(1, 0), ChunkPair(1, 1, True))


# -- the same numbers as on one rank ----------------------------------------------------------

SHAPES = [  # samples, chunks' length, heads, width of a head
    (1, 1, 1, 1),
    (2, 3, 1, 5),
    (3, 16, 4, 8),
    (1, 130, 2, 4),  # more than a tile's rows
    (2, 600, 1, 2),  # more than a tile's columns
    (40, 32, 4, 4),  # several groups of samples
]


def inputs(shape, heads, dtype):
    """qkv (B, T, 3C) of the whole sequence, and a gradient (B, T, C)."""
    random = np.random.default_rng(7)
    batch, length, width = shape
    qkv = random.standard_normal((batch, length, 3 * heads * width)).astype(dtype)
    return qkv, random.standard_normal((batch, length, heads * width)).astype(dtype)


def on_one_rank(qkv, grad, heads):
    """The result and the gradient, by packed_self_attention."""
    x = Tensor(qkv, requires_grad=True)
    y = F.packed_self_attention(x, heads)
    y.backward(grad)
    return y.data, x.grad


def on_the_ring(world, qkv, grad, heads):
    """This rank's positions, and their part of the result and the gradient."""
    here = zigzag(qkv.shape[1], world.size, world.rank)
    x = Tensor(qkv[:, here], requires_grad=True)
    y = RingAttention(world, heads)(x)
    y.backward(grad[:, here])
    return here, y.data, x.grad


def agrees(world, shapes, dtype, atol):
    for batch, length, heads, width in shapes:
        qkv, grad = inputs((batch, 2 * world.size * length, width), heads, dtype)
        result, gradient = on_one_rank(qkv, grad, heads)
        here, mine, my_gradient = on_the_ring(world, qkv, grad, heads)
        assert mine.dtype == my_gradient.dtype == dtype
        np.testing.assert_allclose(mine, result[:, here], rtol=0, atol=atol)
        np.testing.assert_allclose(my_gradient, gradient[:, here], rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_result_and_gradients_are_those_of_the_whole_sequence(ranks, size, dtype, atol):
    ranks(size).run(agrees, shapes=SHAPES, dtype=dtype, atol=atol)


def with_large_scores(world, offset, since):
    """Integers and a power of two as the scale: scores are exact, however large."""
    qkv, grad = inputs((2, 32 * world.size, 4), 2, "float32")
    heads = qkv.reshape(2, -1, 3, 2, 4)
    heads[:, :, :2] = np.rint(heads[:, :, :2])
    heads[:, :, 0, :, 0], heads[:, :, 1, :, 0] = abs(offset), 0
    heads[:, since:, 1, :, 0] = offset
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        result, gradient = on_one_rank(qkv, grad, 2)
        here, mine, my_gradient = on_the_ring(world, qkv, grad, 2)
    np.testing.assert_allclose(mine, result[:, here], atol=1e-5)
    error = (my_gradient - gradient[:, here]).reshape(2, -1, 3, 2, 4)
    error[:, :, :2, :, 0] /= abs(offset)  # these gradients are multiples of the offset
    assert np.abs(error).max() < 1e-5


@pytest.mark.parametrize("since", [0, 16, 40])  # the position from which keys make them
@pytest.mark.parametrize("offset", [512.0, -512.0, 1e4, 1e15, -1e15])
def test_large_scores_neither_overflow_nor_lose_the_softmax(ranks, offset, since):
    ranks(2).run(with_large_scores, offset=offset, since=since)


def same_bits(world):
    qkv, grad = inputs((2, 48 * world.size, 8), 2, "float32")
    first, second = (on_the_ring(world, qkv, grad, 2) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    return first[1]


@pytest.mark.parametrize("size", [2, 4])
def test_repetitions_have_the_same_bits(ranks, size):
    first, second = (ranks(size).run(same_bits) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def bytes_sent(world):
    """By this rank, point to point."""
    return world.stats()["operations"].get("send", {"bytes_sent": 0})["bytes_sent"]


def shares_keys(world):
    """Each of some heads of keys serves several of queries; only they travel."""
    random, length = np.random.default_rng(3), 12 * world.size
    here = zigzag(length, world.size, world.rank)
    for groups in (1, 2, 4):
        shapes = [(2, heads, length, 6) for heads in (4, groups, groups, 4)]
        *inputs, grad = (random.standard_normal(shape, np.float32) for shape in shapes)
        whole = [Tensor(x, requires_grad=True) for x in inputs]
        result = F.scaled_dot_product_attention(*whole, is_causal=True, enable_gqa=True)
        result.backward(grad)
        mine = [Tensor(x[:, :, here], requires_grad=True) for x in inputs]
        before = bytes_sent(world)
        y = GroupedRingAttention(world)(*mine)
        blocks = 2 * world.size - 1 - world.rank if world.rank else world.size - 1
        chunk = 2 * 2 * groups * 6 * 6 * 4  # bytes of its keys and values
        assert bytes_sent(world) - before == blocks * chunk
        y.backward(grad[:, :, here])
        np.testing.assert_allclose(y.data, result.data[:, :, here], atol=1e-5)
        for one, other in zip(mine, whole, strict=True):
            np.testing.assert_allclose(one.grad, other.grad[:, :, here], atol=1e-5)
    with pytest.raises(ValueError, match="4 heads of queries cannot share 3 of keys"):
        GroupedRingAttention(world)(*(Tensor(np.zeros((1, n, 2, 2), "f4")) for n in (4, 3, 3)))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_heads_of_queries_share_heads_of_keys(ranks, size):
    ranks(size, transport="ipc").run(shares_keys)


# -- in a model -------------------------------------------------------------------------------


def attention_layers(attends, x, weights):
    """Two attention layers in a row, and one beside them."""
    first, second, beside = attends
    return second(F.linear(first(x), weights)) + beside(x * 0.5)


def several_layers(world):
    heads, width = 2, 8
    qkv, grad = inputs((3, 8 * world.size, width // heads), heads, "float32")
    weights = np.random.default_rng(1).standard_normal((3 * width, width)).astype("float32")
    here = zigzag(qkv.shape[1], world.size, world.rank)
    results = []
    for attend, part in (
        (lambda x: F.packed_self_attention(x, heads), slice(None)),
        (RingSelfAttention(world, heads), here),
    ):
        x, w = Tensor(qkv[:, part], requires_grad=True), Tensor(weights, requires_grad=True)
        y = attention_layers([attend] * 3, x, w)
        y.backward(grad[:, part])
        results.append((y.data, x.grad, w.grad))
    (whole, to_x, to_w), (mine, my_to_x, my_to_w) = results
    np.testing.assert_allclose(mine, whole[:, here], atol=1e-5)
    np.testing.assert_allclose(my_to_x, to_x[:, here], atol=1e-4)
    np.testing.assert_allclose(world.all_reduce(my_to_w), to_w, atol=1e-3)


@pytest.mark.parametrize("size", [2, 3])
def test_several_layers_in_one_graph_do_not_mix_their_messages(ranks, size):
    ranks(size).run(several_layers)


def in_a_layer(world):
    """A drop-in for what nn.CausalSelfAttention attends with, also recomputed in backward."""
    x, grad = inputs((2, 8 * world.size, 16), 1, "float32")
    x, here = x[:, :, :16], zigzag(8 * world.size, world.size, world.rank)
    layer = nn.CausalSelfAttention(16, 4)
    alone = Tensor(x, requires_grad=True)
    layer(alone).backward(grad)
    layer.attend = RingSelfAttention(world, layer.attend.heads)
    assert repr(layer.attend) == f"RingSelfAttention(heads=4, ranks={world.size})"
    for layer.recompute in (False, True):
        mine = Tensor(x[:, here], requires_grad=True)
        layer(mine).backward(grad[:, here])
        np.testing.assert_allclose(mine.grad, alone.grad[:, here], atol=1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_it_takes_the_place_of_packed_attention(ranks, size):
    ranks(size).run(in_a_layer)


def without_gradients(world):
    qkv, _ = inputs((1, 8 * world.size, 4), 2, "float32")
    x = Tensor(qkv[:, zigzag(qkv.shape[1], world.size, world.rank)], requires_grad=True)
    with nn.no_grad():
        y = RingAttention(world, 2)(x)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.data, RingAttention(world, 2)(x).data)


def test_without_gradients_nothing_is_kept(ranks):
    ranks(2).run(without_gradients)


def refuses(world):
    attend = RingSelfAttention(world, 4)
    with pytest.raises(ValueError, match="last axis of 20 is not 3 x 4 heads"):
        attend(Tensor(np.zeros((1, 2, 20), np.float32)))
    with pytest.raises(ValueError, match=r"this rank's 3 positions .* a multiple of 4"):
        attend(Tensor(np.zeros((1, 3, 24), np.float32)))


def test_shapes_that_do_not_fit_are_refused_before_anything_is_sent(ranks):
    ranks(2).run(refuses)


def moves_ahead(world):
    """Rank 1 does not go on before rank 0 has its next block."""
    own = np.full((2, 2, 1, 1, 1 << 18, 1), world.rank, np.float32)
    blocks = travel(world, own)
    first = next(blocks)
    if world.rank == 1:
        world.recv(0)
    second = next(blocks)
    if world.rank == 0:
        world.send(np.zeros(1), 1)
    assert [first[0], second[0]] == [world.rank, 1 - world.rank]
    assert second[1].shape[0] == 2 - world.rank  # the late chunk of rank 0 stays there
    assert (second[1] == 1 - world.rank).all()
    assert next(blocks, None) is None


def test_the_next_block_is_on_its_way_while_the_present_one_is_used(ranks):
    ranks(2).run(moves_ahead)


# -- what it costs ----------------------------------------------------------------------------


def traffic(world):
    """Bytes that this rank sends in forward, and in backward."""
    qkv, grad = inputs((2, 16 * world.size, 4), 2, "float32")
    here = zigzag(qkv.shape[1], world.size, world.rank)
    before = bytes_sent(world)
    y = RingAttention(world, 2)(Tensor(qkv[:, here], requires_grad=True))
    between = bytes_sent(world)
    y.backward(grad[:, here])
    return [between - before, bytes_sent(world) - between]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_rank_sends_what_is_needed_and_nothing_else(ranks, size):
    h = 2 * 16 * 8 * 4  # bytes of a chunk's keys and values: (B, T / n, C) in float32
    for rank, (forward, backward) in enumerate(ranks(size, transport="ipc").run(traffic)):
        blocks = 2 * size - 1 - rank if rank else size - 1
        assert forward == blocks * h
        assert backward == (blocks + 2 * size - 2 - rank) * h


def test_all_ranks_together_send_three_quarters_of_a_plain_ring(ranks):
    h, size = 2 * 16 * 8 * 4, 4
    forward = sum(sent for sent, _ in ranks(size, transport="ipc").run(traffic))
    assert forward == 0.75 * size * (size - 1) * 2 * h


def peak_memory(world, length):
    """The most that forward and backward hold besides their inputs, and the inputs' bytes."""
    qkv, grad = inputs((1, length, 8), 1, "float32")
    here = zigzag(length, world.size, world.rank)
    x, g = Tensor(qkv[:, here], requires_grad=True), grad[:, here]
    tracemalloc.start()
    RingAttention(world, 1)(x).backward(g)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [peak, g.nbytes]


@pytest.mark.parametrize("length", [1024, 8192])
def test_memory_grows_with_the_sequence_and_not_with_its_square(ranks, length):
    for peak, part in ranks(2).run(peak_memory, length=length):
        # Result, its gradients (4), five blocks of keys and values, grads, and a few columns;
        # of scores no more than four tiles.
        assert peak < 18 * part + 4 * 4 * SCORES
        if length == 8192:
            assert peak < 4 * (length // 2) * length / 20  # the scores would be 128 MiB
