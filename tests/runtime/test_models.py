"""Llama, BERT and T5 on meshes compute what one process computes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from quickly import mostly_slow
from whole_models import collected

from ringlet import nn
from ringlet.nn.models import (
    BERT,
    GPT,
    T5,
    BERTConfig,
    GPTConfig,
    Llama,
    LlamaConfig,
    T5Config,
)
from ringlet.nn.optim import SGD
from ringlet.runtime import Mesh, MeshError, MicroBatch, Parallelism, Step, parallelize
from ringlet.runtime.mesh import share

VOCABULARY, LENGTH, BATCH, STEPS, RATE = 13, 8, 4, 2, 0.1

SMALL = {"num_hidden_layers": 4, "hidden_size": 16, "intermediate_size": 20}
MODELS = {
    "llama": lambda: Llama(
        LlamaConfig(VOCABULARY, num_attention_heads=4, num_key_value_heads=2, **SMALL)
    ),
    "llama-tied": lambda: Llama(
        LlamaConfig(VOCABULARY, num_attention_heads=2, tie_word_embeddings=True, **SMALL)
    ),
    "qwen": lambda: Llama(
        LlamaConfig(
            VOCABULARY, num_attention_heads=4, num_key_value_heads=2, qkv_bias=True, qk_norm=True,
            sliding_window=3, layer_types=("sliding_attention", "full_attention") * 2,
            rope_scaling={"rope_type": "dynamic", "factor": 4.0}, max_position_embeddings=4,
            attention_dropout=0.1, head_dim=6, **SMALL,
        )
    ),
    "gpt": lambda: GPT(GPTConfig(VOCABULARY, LENGTH, 4, 4, 16, dropout=0.1)),
    "bert": lambda: BERT(BERTConfig(VOCABULARY, num_attention_heads=4, **SMALL)),
    "t5": lambda: T5(T5Config(VOCABULARY, 16, 4, 20, num_layers=2, num_heads=4)),
    "t5-gated": lambda: T5(
        T5Config(
            VOCABULARY, 16, 4, 20, 3, 2, 2, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False, scale_decoder_outputs=False,
        )
    ),
}  # fmt: skip


def batch_of(name, step, first, count):
    """Some samples of a step's batch; in all but the plain Llamas some of it is padding."""
    random = np.random.default_rng(step)
    ids, targets = random.integers(1, VOCABULARY, (2, BATCH, LENGTH))
    targets[:, -1] = VOCABULARY - 1
    mine = slice(first, first + count)
    if name.startswith("llama"):
        return MicroBatch(ids[mine], targets[mine], first)
    mask = np.ones((BATCH, LENGTH), int)
    if name in ("qwen", "gpt"):
        mask[1, :3] = 0
        return MicroBatch(ids[mine], targets[mine], first, {"attention_mask": mask[mine]})
    mask[1, 5:] = 0
    targets[2, :3] = -100
    options = {"attention_mask": mask[mine]}
    if name == "bert":
        options["token_type_ids"] = random.integers(0, 2, (BATCH, LENGTH))[mine]
        return MicroBatch(ids[mine], targets[mine], first, options)
    targets = targets[:, 2:]  # the decoder's is another length
    decoder = np.where(targets < 0, 0, np.roll(targets, 1, axis=1)) % VOCABULARY
    return MicroBatch((ids[mine], decoder[mine]), targets[mine], first, options)


def trained(world, name, cases):
    """For each mesh with its options: [losses, norms, gradients, weights, evaluation]."""
    return [trained_on(world, name, mesh, options) for mesh, options in cases]


def trained_on(world, name, mesh, options):
    with nn.uninitialized():
        model = MODELS[name]()
    options = {**options, "recompute": tuple(options.get("recompute", ()))}
    parallel = parallelize(model, Mesh(world, **mesh), Parallelism(**options), seed=7)
    parallel.use(lambda flat: SGD(flat, RATE))
    first, count = share(BATCH, parallel.mesh.size("dp"), parallel.data_index)
    losses, norms = [], []
    for step in range(STEPS):
        pieces = [share(count, min(2, count), number) for number in range(min(2, count))]
        batches = [batch_of(name, step, first + skip, part) for skip, part in pieces]
        loss = np.array([parallel.gradients(batches, Step(1, step, 1 / (BATCH * LENGTH)))])
        losses.append(float(world.all_reduce(loss)[0]))
        norms.append(parallel.norm())
        if step == 0:
            gradients = {key: grad for key, (_, grad) in collected(parallel).items()}
        parallel.update(RATE)
    score = np.array([parallel.evaluate([batch_of(name, 99, first, count)])])
    weights = {key: weight for key, (weight, _) in collected(parallel).items()}
    return [losses, norms, gradients, weights, float(world.all_reduce(score)[0])]


MAIN = ("llama", "qwen", "bert", "t5")
"""The others differ in few layers, and go through fewer meshes."""

TWO = [
    ({"dp": 2}, {"zero": 3}),
    ({"tp": 2}, {"recompute": ["blocks"]}),
    ({"tp": 2}, {"sequence": True}),
    ({"pp": 2}, {}),
    ({"pp": 2}, {"schedule": "zero-bubble", "recompute": ["blocks"]}),
    ({"pp": 2}, {"schedule": "interleaved", "chunks": 2}),
    ({"pp": 2}, {"schedule": "zb-v"}),
]
FOUR = [
    ({"dp": 2, "pp": 2}, {"zero": 2}),
    ({"dp": 2, "tp": 2}, {"zero": 1}),
    ({"tp": 2, "pp": 2}, {"sequence": True}),
    ({"dp": 2, "pp": 2}, {"schedule": "interleaved"}),
    ({"dp": 2, "pp": 2}, {"schedule": "zb-v", "zero": 1}),
    ({"pp": 4}, {}),
]

CONTEXTS = [
    ({"cp": 4}, {"zero": 1}),
    ({"cp": 2, "tp": 2}, {"sequence": True}),
    ({"cp": 2, "pp": 2}, {"recompute": ["blocks"]}),
]
"""Of causal attention."""


@pytest.mark.parametrize(
    "name",
    mostly_slow(MODELS, "llama"),
)
def test_meshes(ranks, name):
    (alone,) = ranks(1).run(trained, name=name, cases=[({}, {})])[0]
    four = FOUR + CONTEXTS if name == "llama" else FOUR
    for size, cases in ((2, TWO), (4, four)) if name in MAIN else ((4, FOUR),):
        results = ranks(size).run(trained, name=name, cases=cases, deadline=120)[0]
        for case, result in zip(cases, results, strict=True):
            np.testing.assert_allclose(result[0], alone[0], rtol=1e-5, err_msg=case)
            np.testing.assert_allclose(result[1], alone[1], rtol=1e-5, err_msg=case)
            for part, tolerance in ((2, 1e-6), (3, 2e-6)):
                for key, array in alone[part].items():
                    note = f"{case}: {key}"
                    np.testing.assert_allclose(
                        result[part][key], array, atol=tolerance, err_msg=note
                    )
            np.testing.assert_allclose(result[4], alone[4], rtol=1e-5, err_msg=case)


def refused(world, name, mesh, change=None, options=None, mask=False):
    with nn.uninitialized():
        model = MODELS[name]()
        if change:
            model = type(model)(replace(model.config, **change))
    try:
        parallel = parallelize(model, Mesh(world, **mesh), Parallelism(**options or {}), seed=1)
        if mask:
            ids = np.ones((2, LENGTH), int)
            batch = MicroBatch(ids, ids, 0, {"attention_mask": ids})
            parallel.gradients([batch], Step(1, 0, 1.0))
    except MeshError as error:
        return str(error)
    return ""


WINDOW = {"sliding_window": 3}
DYNAMIC = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
REFUSED = {
    "key heads": ("llama", {"tp": 4}, {}, "2 heads of keys cannot be cut into tp=4 parts; tp can"),
    "both ways": ("bert", {"cp": 2}, {}, "cp=1 and dp=2 would fit"),
    "window": ("llama", {"cp": 2}, {"change": WINDOW}, "windows and positions that"),
    "dropout": (
        "llama",
        {"cp": 2},
        {"change": {"attention_dropout": 0.5}},
        "windows and positions that",
    ),
    "dynamic": ("llama", {"cp": 2}, {"change": DYNAMIC}, "depend on the length: this"),
    "mask": ("llama", {"cp": 2}, {"mask": True}, "ring attention has no mask"),
    "gpt's mask": ("gpt", {"cp": 2}, {"mask": True}, "ring attention has no mask"),
    "head norms": ("qwen", {"tp": 2, "dp": 2}, {"options": {"compress": "int8"}}, "with tp=1"),
    "no head": ("bert", {"dp": 2}, {"change": {"language_head": False}}, "has no cls"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(ranks, case):
    name, mesh, more, words = REFUSED[case]
    texts = ranks(math.prod(mesh.values())).run(refused, name=name, mesh=mesh, **more)
    assert all(words in text for text in texts), texts
