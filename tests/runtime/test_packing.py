"""Texts that are packed into one row: no token sees another text, on any mesh."""

import itertools

import numpy as np
import pytest
from whole_models import collected

from ringlet import nn
from ringlet.nn import functional as F
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.models import GPT, GPTConfig, Llama, LlamaConfig
from ringlet.runtime import Mesh, MicroBatch, Parallelism, Step, parallelize
from ringlet.runtime.mesh import share

VOCABULARY, CONTEXT, BATCH = 24, 16, 4
IGNORED = -100


def make(kind, **options):
    """A model whose embedding is its own, so that a row of it has a gradient only from inputs."""
    if kind == "gpt":
        return GPT(GPTConfig(
            vocab_size=VOCABULARY, block_size=CONTEXT, n_layer=2, n_head=4, n_embd=16,
            tie_word_embeddings=False, **options,
        ))  # fmt: skip
    return Llama(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT, **options,
    ))  # fmt: skip


EMBEDDING = {"gpt": "transformer.wte.weight", "llama": "model.embed_tokens.weight"}


def packed(seed):
    """Rows of texts of random lengths: ids, targets and the texts' numbers (B, T). Text k has the
    ids 4 k to 4 k + 3, so that an id says whose it is; there are six."""
    random = np.random.default_rng(seed)
    ids, numbers = np.empty((2, BATCH, CONTEXT + 1), np.int64)
    for row in range(BATCH):
        ends = np.sort(random.choice(np.arange(1, CONTEXT), random.integers(0, 6), replace=False))
        numbers[row] = np.searchsorted(ends, np.arange(CONTEXT + 1), side="right")
        ids[row] = 4 * numbers[row] + random.integers(0, 4, CONTEXT + 1)
    return ids[:, :-1], ids[:, 1:], numbers[:, :-1]


@pytest.mark.parametrize("kind", EMBEDDING)
def test_every_text_is_as_if_it_were_alone(kind):
    model = make(kind)
    ids, _, numbers = packed(3)
    together = model(ids, documents=numbers).data
    for row, number in itertools.product(range(BATCH), range(6)):
        mine = numbers[row] == number
        if mine.any():
            alone = model(ids[row : row + 1, mine]).data[0]
            np.testing.assert_allclose(together[row, mine], alone, atol=1e-5)
    if numbers.max():
        assert np.abs(model(ids).data - together).max() > 1e-3


def test_texts_and_padding_do_not_mix():
    model = make("gpt")
    ids, _, numbers = packed(3)
    with pytest.raises(ValueError, match="packed with documents, or padded"):
        model(ids, documents=numbers, attention_mask=numbers * 0)
    for wrong in (numbers[:, :-1], numbers[0], np.pad(numbers, ((0, 0), (0, 1))), numbers[:2]):
        with pytest.raises(ValueError, match=r"documents of shape|first keys of shape|broadcast"):
            model(ids, documents=wrong)


SHAPES = [(1, 1, 1, 4), (2, 7, 2, 8), (3, 150, 2, 4), (2, 700, 1, 2), (40, 32, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [0, 5])
def test_first_keys_are_a_mask(shape, window):
    """Also over several tiles, and in groups of samples; with large scores, too."""
    batch, length, heads, width = shape
    random = np.random.default_rng(1)
    steps = np.arange(length)
    begins = random.random((batch, length)) < 0.05
    first = np.maximum.accumulate(np.where(begins, steps, 0), axis=1)
    mask = (steps >= first[:, :, None])[:, None]
    for scale in (1, 300):
        arrays = scale**0.5 * random.standard_normal((3, batch, heads, length, width), np.float32)
        grad = random.standard_normal((batch, heads, length, width), np.float32)
        results = []
        for which in (mask, F.FirstKeys(first)):
            q, k, v = (Tensor(x, requires_grad=True) for x in arrays)
            y = F.scaled_dot_product_attention(q, k, v, which, is_causal=True, window=window)
            y.backward(grad)
            results.append([y.data, q.grad, k.grad, v.grad])
        for one, other in zip(*results, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4 * scale**0.5)


def gradients(world, kind, mesh, options, **sizes):
    """Of the loss of one text in each row: the embedding's, once for each text. What other ranks
    have is put together; then [which rows of it are not 0, the gradients] on rank 0."""
    options = {**options, "recompute": tuple(options.get("recompute", ()))}
    model = make(kind, **sizes)
    parallel = parallelize(model, Mesh(world, **mesh), Parallelism(**options), seed=5)
    parallel.use(lambda flat: nn.optim.SGD(flat, 0.1))
    found = []
    for seed, number in ((1, 0), (2, 1), (3, 2), (4, 4)):
        ids, targets, numbers = packed(seed)
        targets = np.where(numbers == number, targets, IGNORED)
        first, count = share(BATCH, parallel.mesh.size("dp", "ep"), parallel.data_index)
        batches = []
        for part in range(2 if mesh.get("pp", 1) > 1 else 1):
            skip, size = share(count, 2 if mesh.get("pp", 1) > 1 else 1, part)
            mine = slice(first + skip, first + skip + size)
            rows = {"documents": numbers[mine]}
            batches.append(MicroBatch(ids[mine], targets[mine], first + skip, rows))
        parallel.gradients(batches, Step(1, 0, 1 / (BATCH * CONTEXT)))
        parallel.norm()
        gradient = collected(parallel)[EMBEDDING[kind]][1]
        others = np.arange(VOCABULARY) // 4 != number
        assert np.abs(gradient[others]).max() == 0, (seed, number)
        seen = np.unique(ids[numbers == number])
        if len(seen) and (targets != IGNORED).any():
            assert np.abs(gradient[seen]).max() > 0
        found.append(gradient)
        parallel.update(0.0)
    return found if world.rank == 0 else None


MESHES = [
    ({"dp": 2}, {"zero": 3}),
    ({"tp": 2}, {}),
    ({"tp": 2}, {"sequence": True}),
    ({"pp": 2}, {"schedule": "zero-bubble"}),
    ({"cp": 2}, {}),
    ({"cp": 4}, {"recompute": ["blocks"]}),
    ({"cp": 2, "tp": 2}, {"sequence": True}),
    ({"cp": 2, "pp": 2}, {"recompute": ["*.attend"]}),
]


@pytest.fixture(scope="module")
def alone(ranks):
    """By the kind of the model: the gradients of one process."""
    return {k: ranks(1).run(gradients, kind=k, mesh={}, options={})[0] for k in EMBEDDING}


SOME = [("gpt", *MESHES[n]) for n in range(7)] + [("llama", *MESHES[n]) for n in (1, 4, 7)]


@pytest.mark.parametrize(("kind", "mesh", "options"), SOME, ids=str)
def test_no_token_sees_another_text_on_any_mesh(ranks, alone, kind, mesh, options):
    size = int(np.prod(list(mesh.values())))
    result = ranks(size).run(gradients, kind=kind, mesh=mesh, options=options)[0]
    for one, other in zip(result, alone[kind], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_experts_see_no_other_text_either(ranks):
    """With room for all tokens, since those that an expert drops depend on the others."""
    sizes = {"n_expert": 4, "capacity_factor": 0.0, "balance": 0.0}
    ranks(2).run(gradients, kind="gpt", mesh={"ep": 2}, options={}, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EMBEDDING)
def test_no_token_sees_another_text_on_eight_ranks(ranks, alone, kind):
    for dp, tp, pp, cp in itertools.product((1, 2), (1, 2), (1, 2), (1, 2, 4)):
        if dp * tp * pp * cp > 8:
            continue
        mesh = {"dp": dp, "tp": tp, "pp": pp, "cp": cp}
        for zero, sequence in ((0, False), (3, tp > 1)):
            options = {"zero": zero, "sequence": sequence}
            result = ranks(dp * tp * pp * cp).run(
                gradients, kind=kind, mesh=mesh, options=options, deadline=60
            )[0]
            for one, other in zip(result, alone[kind], strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", EMBEDDING)
def test_texts_are_apart_on_a_device(kind, request):
    ids, targets, numbers = packed(3)
    expected = make(kind)(ids, targets, documents=numbers).item()
    request.getfixturevalue("fake_cupy")
    loss = make(kind)(ids, targets, documents=numbers)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
