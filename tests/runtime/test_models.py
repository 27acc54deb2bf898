"""Llama, BERT and T5 on meshes compute what one process computes."""

import numpy as np
import pytest
from whole_models import collected

from ringlet import nn
from ringlet.nn.models import BERT, T5, BERTConfig, Llama, LlamaConfig, T5Config
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
    """Some samples of a step's batch; in BERT and T5 some of it is padding."""
    random = np.random.default_rng(step)
    ids, targets = random.integers(1, VOCABULARY, (2, BATCH, LENGTH))
    targets[:, -1] = VOCABULARY - 1
    mine = slice(first, first + count)
    if name.startswith("llama"):
        return MicroBatch(ids[mine], targets[mine], first)
    mask = np.ones((BATCH, LENGTH), int)
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


MAIN = ("llama", "bert", "t5")
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


@pytest.mark.parametrize("name", MODELS)
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


def refused(world, name, mesh):
    with nn.uninitialized():
        model = MODELS[name]()
    try:
        parallelize(model, Mesh(world, **mesh))
    except MeshError as error:
        return str(error)
    return ""


def test_what_cannot_be_is_refused(ranks):
    texts = ranks(4).run(refused, name="llama", mesh={"tp": 4})
    assert texts == ["2 heads of keys cannot be cut into tp=4 parts; tp can be 1, 2"] * 4
    texts = ranks(2).run(refused, name="bert", mesh={"cp": 2})
    assert all("cp=1 and dp=2 would fit" in text for text in texts)
