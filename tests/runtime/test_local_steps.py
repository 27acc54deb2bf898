"""Local steps: replicas that agree now and then, against the algorithms written out by hand."""

import numpy as np
import pytest
from small_runs import newest_weights, run_to_the_end

from ringlet import nn
from ringlet.nn import FlatParameters
from ringlet.nn.models import GPT, GPTConfig
from ringlet.nn.optim import SGD
from ringlet.runtime import (
    ConfigError,
    Mesh,
    MeshError,
    MicroBatch,
    Parallelism,
    Step,
    check_fit,
    make_config,
    parallelize,
)

SIZES = GPTConfig(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=8)
RATE, ROUNDS, EVERY = 0.5, 3, 2


def batch_of(step, replica):
    ids = np.random.default_rng([step, replica]).integers(0, 13, (2, 9))
    return MicroBatch(ids[:, :-1], ids[:, 1:], 2 * replica)


def replicas(world, outer, mesh):
    """The parameters after some rounds, on every rank."""
    with nn.uninitialized():
        model = GPT(SIZES)
    made = Mesh(world, **mesh)
    options = Parallelism(local_steps=EVERY, outer_learning_rate=outer[0], outer_momentum=outer[1])
    parallel = parallelize(model, made, options, seed=7)
    parallel.use(lambda flat: SGD(flat, RATE))
    differed = False
    for step in range(ROUNDS * EVERY):
        parallel.gradients([batch_of(step, made.index("dp"))], Step(1, step, 1 / 16))
        parallel.update(RATE)
        (shard,) = parallel.shards if made.size("pp") == 1 else parallel.shards[:1]
        own, _ = shard.views(0, shard.size)
        everybody = made.group("dp").all_gather(own)
        same = all(np.array_equal(other, own) for other in everybody)
        differed |= not same
        assert same or (step + 1) % EVERY
    assert differed
    return own.copy()


def by_hand(count, outer):
    """The same with one process, as the papers write it."""
    rate, momentum = outer
    models = [GPT(SIZES, seed=7) for _ in range(count)]
    flats = [FlatParameters(model) for model in models]
    anchor = flats[0].data.copy()
    velocity = np.zeros_like(anchor)
    for step in range(ROUNDS * EVERY):
        for replica, (model, flat) in enumerate(zip(models, flats, strict=True)):
            flat.zero_grad()
            batch = batch_of(step, replica)
            model(batch.ids, batch.targets).backward()
            flat.data -= RATE * flat.grad
        if (step + 1) % EVERY == 0:
            change = np.mean([anchor - flat.data for flat in flats], axis=0)
            velocity = momentum * velocity + change
            anchor = anchor - rate * (change + momentum * velocity if momentum else change)
            for flat in flats:
                flat.data[...] = anchor
    return anchor


@pytest.mark.parametrize("outer", [(1.0, 0.0), (0.7, 0.9)], ids=["local SGD", "DiLoCo"])
@pytest.mark.parametrize("mesh", [{"dp": 2}, {"dp": 3}], ids=str)
def test_rounds_are_the_papers(ranks, mesh, outer):
    results = ranks(mesh["dp"]).run(replicas, outer=outer, mesh=mesh)
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    np.testing.assert_allclose(results[0], by_hand(mesh["dp"], outer), atol=2e-6)


@pytest.mark.parametrize(
    "mesh", [{"dp": 2, "tp": 2}, {"dp": 2, "pp": 2}, {"dp": 2, "cp": 2}], ids=str
)
def test_replicas_may_be_meshes_themselves(ranks, mesh):
    ranks(4).run(replicas, outer=(0.7, 0.9), mesh=mesh)


TINY = {
    "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, "batch_size": 8, "steps": 12,
    "eval_every": 6, "eval_windows": 20, "checkpoint_every": 6, "warmup_steps": 3,
    "local_steps": 3, "outer_learning_rate": 0.7, "outer_momentum": 0.9,
}  # fmt: skip


def trained(world, folder, stop_at=None, **options):
    def watch(made, row):
        if row["step"] == stop_at:
            made.stop()

    outcome, _ = run_to_the_end(world, TINY, folder, watch=watch, **options)
    return outcome.step


def test_a_resumed_run_has_the_same_bits_and_stops_only_between_rounds(ranks, tmp_path):
    assert ranks(2).run(trained, folder=str(tmp_path / "a")) == [12, 12]
    assert ranks(2).run(trained, folder=str(tmp_path / "b"), stop_at=4) == [6, 6]
    assert ranks(2).run(trained, folder=str(tmp_path / "b"), resume=True) == [12, 12]
    for name, array in newest_weights(tmp_path / "a").items():
        np.testing.assert_array_equal(newest_weights(tmp_path / "b")[name], array)


@pytest.mark.parametrize(
    ("size", "options"), [(4, {}), (4, {"mesh": "dp=2,tp=2"}), (1, {"local_steps": 1})]
)
def test_other_meshes_go_on(ranks, tmp_path, size, options):
    ranks(2).run(trained, folder=str(tmp_path), steps=6)
    assert ranks(size).run(trained, folder=str(tmp_path), resume=True, **options) == [12] * size


REFUSED = {
    "steps": ({"steps": 10}, 2, "steps is 10; with local_steps 3 it has to be a multiple"),
    "checkpoints": ({"checkpoint_every": 5}, 2, "checkpoint_every is 5"),
    "batch": ({"batch_size": 9}, 2, "dp=2 equal parts"),
    "one replica": ({"mesh": "tp=2"}, 2, "the mesh has dp=1"),
    "ZeRO": ({"zero": 1}, 2, "zero=0, or local_steps=1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(case):
    options, workers, words = REFUSED[case]
    with pytest.raises((ConfigError, MeshError), match=words):
        check_fit(make_config("tiny", None, {**TINY, **options}), workers)
