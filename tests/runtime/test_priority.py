"""Gradients by priority: another order on the wire, the same bits."""

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn.models import GPT, GPTConfig
from ringlet.nn.optim import SGD, AdamW
from ringlet.runtime import (
    ConfigError,
    Mesh,
    MicroBatch,
    Parallelism,
    Step,
    Trainer,
    check_fit,
    load_corpus,
    make_config,
    parallelize,
)
from ringlet.runtime.data.priority import MEASURED_STEPS


def trained(world, mesh, priority, optimizer="sgd", steps=MEASURED_STEPS + 2, zero=0):
    """[weights of this rank, loss of an evaluation after them]"""
    with nn.uninitialized():
        model = GPT(GPTConfig(vocab_size=13, block_size=8, n_layer=4, n_head=2, n_embd=16))
    options = Parallelism(priority=priority, bucket_bytes=4096, zero=zero)
    parallel = parallelize(model, Mesh(world, **mesh), options, seed=7)
    parallel.use(lambda flat: SGD(flat, 0.5) if optimizer == "sgd" else AdamW(flat, 1e-2))
    for step in range(steps):
        ids = np.random.default_rng([step, parallel.data_index]).integers(0, 13, (2, 9))
        batches = [MicroBatch(ids[n : n + 1, :-1], ids[n : n + 1, 1:], n) for n in range(2)]
        parallel.gradients(batches, Step(1, step, 1 / 32))
        parallel.update(1e-2)
    score = parallel.evaluate([MicroBatch(ids[:, :-1], ids[:, 1:], 0)])
    weights = [parameter.data.reshape(-1).copy() for parameter in parallel.model.parameters()]
    return [weights, score]


@pytest.mark.parametrize(
    ("mesh", "transport", "optimizer"),
    [
        ({"dp": 2}, "auto", "sgd"),
        ({"dp": 2}, "ipc", "adamw"),
        ({"dp": 3}, "auto", "adamw"),
        ({"dp": 3}, "ipc", "sgd"),
        ({"dp": 2, "pp": 2}, "auto", "sgd"),
        ({"dp": 2, "pp": 2}, "ipc", "adamw"),
        ({"dp": 2, "tp": 2}, "auto", "adamw"),
        ({"dp": 2, "tp": 2}, "ipc", "sgd"),
    ],
)
def test_the_bits_are_those_of_the_usual_order(ranks, mesh, transport, optimizer):
    pool = ranks(int(np.prod(list(mesh.values()))), transport)
    plain = pool.run(trained, mesh=mesh, priority=False, optimizer=optimizer)
    other = pool.run(trained, mesh=mesh, priority=True, optimizer=optimizer)
    for (weights, score), (expected, wanted) in zip(other, plain, strict=True):
        assert score == wanted
        for array, right in zip(weights, expected, strict=True):
            np.testing.assert_array_equal(array, right)


@pytest.mark.parametrize("mesh", [{"dp": 2}, {"dp": 2, "pp": 2}])
def test_parameters_gathered_under_the_next_forward_have_the_same_bits(ranks, mesh):
    options = {"mesh": mesh, "priority": False, "optimizer": "adamw"}
    pool = ranks(int(np.prod(list(mesh.values()))), "ipc")
    plain, zero = pool.run(trained, **options), pool.run(trained, zero=1, **options)
    for (weights, score), (expected, wanted) in zip(zero, plain, strict=True):
        assert score == wanted
        for array, right in zip(weights, expected, strict=True):
            np.testing.assert_array_equal(array, right)


def arriving(world):
    """How many buckets' parameters are awaited when each block begins, and after an evaluation."""
    with nn.uninitialized():
        model = GPT(GPTConfig(vocab_size=13, block_size=8, n_layer=4, n_head=2, n_embd=16))
    parallel = parallelize(model, Mesh(world, dp=2), Parallelism(zero=1, bucket_bytes=4096), seed=7)
    parallel.use(lambda flat: SGD(flat, 0.5))
    (group,) = parallel.gradient_groups
    awaited = []
    for block in parallel.model.blocks:
        block.register_forward_pre_hook(lambda *_: awaited.append(len(group.reducer._arriving)))
    ids = np.ones((1, 9), np.int64)
    batches = [MicroBatch(ids[:, :-1], ids[:, 1:], 0)]
    for step in range(2):
        parallel.gradients(batches, Step(1, step, 1.0))
        parallel.update(0.1)
    parallel.evaluate(batches)
    return awaited


def test_forward_waits_for_one_block_at_a_time(ranks):
    first, second, evaluation = np.reshape(ranks(2, "ipc").run(arriving), (2, 3, 4))[0]
    assert not first.any()
    assert not evaluation.any()
    assert (np.diff(second) < 0).all()
    assert not np.any(ranks(2).run(arriving))  # on one host they are gathered at once


def order(world):
    """Labels of the sums in the order in which they are issued, and those due in each forward."""
    with nn.uninitialized():
        model = GPT(GPTConfig(vocab_size=13, block_size=8, n_layer=4, n_head=2, n_embd=16))
    made = Mesh(world, dp=world.size)
    parallel = parallelize(model, made, Parallelism(priority=True, bucket_bytes=12_000), seed=7)
    parallel.use(lambda flat: SGD(flat, 0.5))
    (group,) = parallel.gradient_groups
    reducer = group.reducer
    ids = np.ones((1, 9), np.int64)
    batches = [MicroBatch(ids[:, :-1], ids[:, 1:], 0)]
    for step in range(6):
        reducer._ahead = min(reducer._ahead, 2)  # a link on which two are sent meanwhile
        parallel.gradients(batches, Step(1, step, 1.0))
        sent = list(reducer._works)
        parallel.update(0.1)
        assert len(reducer._due) == len(reducer.buckets)
    due = []
    for block in parallel.model.blocks:
        block.register_forward_pre_hook(lambda *_: due.append(len(reducer._due)))
    parallel.gradients(batches, Step(1, 6, 1.0))
    return [sent, due]


def test_the_first_layers_overtake_and_forward_waits_for_one_block_at_a_time(ranks):
    for sent, due in ranks(2).run(order):
        count = len(sent)
        assert count > 4
        assert sent[:1] == [0]
        ahead = next(n for n in range(1, count) if sent[n] == count - 1)
        assert ahead <= 2
        assert sent[ahead:] == sorted(sent[ahead:], reverse=True)
        assert due == sorted(due, reverse=True)
        assert due[0] > due[-1]


def test_clipping_is_refused():
    config = make_config("tiny", None, {"priority": True})
    with pytest.raises(ConfigError, match="clip 0 would fit"):
        check_fit(config, 2)
    check_fit(make_config("tiny", None, {"priority": True, "clip": 0.0}), 2)


def word_in_flight(world):
    """Whether gradients are still on their way when all have agreed on the loss."""
    sizes = {"n_layer": 4, "n_embd": 64, "batch_size": 2, "eval_windows": 2}
    order = {"clip": 0.0, "priority": True, "bucket_bytes": 100_000}
    config = make_config("tiny", None, {**sizes, **order})
    trainer = Trainer(config, load_corpus("pydoc", config.block_size, None), world)
    on_their_way = []
    for _ in range(MEASURED_STEPS + 2):
        trainer._train_step()
        works = trainer.parallel.gradient_groups[0].reducer._works.values()
        on_their_way.append(any(not work.done() for work in works))
    trainer.evaluate()
    return on_their_way[MEASURED_STEPS:]


def test_the_loss_does_not_wait_behind_the_gradients(two_hosts):
    # A step's gradients, 0.9 MB, take 0.35 s on this link; the first blocks do not need them all.
    for on_their_way in two_hosts((0, 1), 20).run(word_in_flight):
        assert on_their_way == [True, True]
