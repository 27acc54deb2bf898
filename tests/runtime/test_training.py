"""Training: the same result on any number of workers, every time, and after a stop."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from small_runs import small_trainer

from ringlet import comm
from ringlet.nn import FlatParameters, Linear, Sequential
from ringlet.runtime import DataParallel, NonFinite, Trainer, load_corpus, make_config
from ringlet.runtime.data.bucket_size import bucket_count
from ringlet.runtime.data.data_parallel import group_from_end, make_buckets
from ringlet.runtime.training.callbacks import Callback
from ringlet.runtime.training.meter import FIGURES

TINY = {
    "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, "batch_size": 12, "steps": 20,
    "eval_every": 10, "eval_windows": 20, "checkpoint_every": 10, "warmup_steps": 5,
}  # fmt: skip


def trained(world, **options):
    """The weights after a whole run."""
    made, _ = small_trainer(world, TINY, **options)
    outcome = made.run()
    assert outcome.step == made.config.steps
    weights = flat(made)
    for other in world.all_gather(weights):
        np.testing.assert_array_equal(other, weights)  # the same bits on every rank
    return [weights, outcome.val_loss]


def flat(made):
    """All parameters of a trainer whose ranks have the whole model."""
    (shard,) = made.parallel.shards
    return shard.data


@pytest.fixture(scope="module")
def alone(ranks):
    """The weights of one worker."""
    return {
        batch: ranks(1).run(trained, optimizer="sgd", batch_size=batch, learning_rate=0.1)[0]
        for batch in (12, 10)
    }


@pytest.mark.parametrize(("size", "batch"), [(2, 12), (3, 12), (4, 12), (3, 10), (4, 10)])
def test_any_number_of_workers_gives_the_same_weights(ranks, alone, size, batch):
    """10 contexts are 3, 3, 2 and 2 on four workers: every context weighs the same."""
    weights, loss = ranks(size).run(trained, optimizer="sgd", batch_size=batch, learning_rate=0.1)[
        0
    ]
    np.testing.assert_allclose(weights, alone[batch][0], atol=1e-5)
    assert abs(loss - alone[batch][1]) < 1e-5


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_micro_batches_give_the_same_weights(ranks, alone, accumulate):
    options = {"optimizer": "sgd", "learning_rate": 0.1, "accumulate": accumulate}
    weights, _ = ranks(2).run(trained, **options)[0]
    np.testing.assert_allclose(weights, alone[12][0], atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_same_seed_gives_the_same_bits(ranks, dropout):
    first = ranks(3).run(trained, dropout=dropout)[0][0]
    second = ranks(3).run(trained, dropout=dropout)[0][0]
    np.testing.assert_array_equal(first, second)
    other = ranks(3).run(trained, dropout=dropout, seed=1)[0][0]
    assert not np.array_equal(first, other)


def test_dropout_does_not_depend_on_the_number_of_workers(ranks):
    options = {"dropout": 0.3, "optimizer": "sgd", "learning_rate": 0.1}
    one = ranks(1).run(trained, **options)[0][0]
    three = ranks(3).run(trained, **options)[0][0]
    np.testing.assert_allclose(three, one, atol=1e-5)


def stopped_and_resumed(world, folder, stop_after):
    """A run that is asked to stop after some step, and another that goes on from there."""

    def watch(made, row):
        # Only rank 0 is asked; all have to stop after the same step.
        if row["step"] == stop_after:
            made.stop()

    first, _ = small_trainer(world, TINY, folder, watch, dropout=0.1)
    outcome = first.run()
    assert outcome.stopped
    assert outcome.step in (stop_after, stop_after + 1)
    second, _ = small_trainer(world, TINY, folder, dropout=0.1)
    assert second.resume() == outcome.step
    assert second.run().step == TINY["steps"]
    return flat(second)


@pytest.mark.parametrize("stop_after", [3, 10, 17])
def test_a_run_that_was_stopped_and_resumed_has_the_same_bits(ranks, tmp_path, stop_after):
    whole = ranks(2).run(trained, dropout=0.1)[0][0]
    resumed = ranks(2).run(stopped_and_resumed, folder=str(tmp_path), stop_after=stop_after)[0]
    np.testing.assert_array_equal(resumed, whole)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(TINY["steps"] + 1))  # no step twice


def resumed_by_others(world, folder):
    made, _ = small_trainer(world, TINY, folder, steps=30)
    made.resume()
    return [made.step, made.run().val_loss]


def test_other_numbers_of_workers_can_go_on(ranks, tmp_path):
    ranks(2).run(saved_run, folder=str(tmp_path))
    (step, loss), *others = ranks(3).run(resumed_by_others, folder=str(tmp_path))
    assert step == 20
    assert all(other == [step, loss] for other in others)


def saved_run(world, folder):
    made, rows = small_trainer(world, TINY, folder)
    made.run()
    return rows


def test_metrics_say_what_happened(ranks, tmp_path):
    rows = ranks(2).run(saved_run, folder=str(tmp_path))[0]
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == rows
    assert rows[0]["step"] == 0
    assert set(rows[0]) == {"step", "val_loss", "val_bits_per_byte"}
    assert rows[0]["val_bits_per_byte"] == pytest.approx(rows[0]["val_loss"] / np.log(2))
    names = {
        "step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_s", "step_s",
        "comm_s", "comm_bytes", "elapsed_s", "epoch", "bits_per_byte", "mfu",
    }  # fmt: skip
    assert all(names <= set(row) for row in rows[1:])
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 10, 20]
    assert rows[-1]["tokens"] == 20 * 12 * 16
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    of_ranks = [json.loads(line) for line in (tmp_path / "ranks.jsonl").read_text().splitlines()]
    for rank in (0, 1):
        mine = [row for row in of_ranks if row["rank"] == rank]
        assert sum(row["steps"] for row in mine) == mine[-1]["step"] == 20
        for row in mine:
            assert 0 < row["compute_s"] + row["comm_s"] + row["update_s"] < row["step_s"]
            assert row["peak_bytes"] > row["base_bytes"] > 1 << 20
            assert row["sent_bytes"]["all_reduce"] > 0
    assert all(row["comm_bytes"] > 0 for row in rows[1:])


def counted(world, accumulate):
    made, _ = small_trainer(world, TINY, accumulate=accumulate)
    made.evaluate()
    before = world.stats()["operations"]["all_reduce"]
    made._train_step()
    after = world.stats()["operations"]["all_reduce"]
    buckets = len(made.parallel.gradient_groups[0].reducer.buckets)
    return [
        after["calls"] - before["calls"] - buckets,
        after["bytes_sent"] - before["bytes_sent"],
        flat(made).nbytes,
    ]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("size", [2, 4])
def test_gradients_travel_once_for_each_optimizer_step(ranks, size, accumulate):
    results = ranks(size, transport="ipc").run(counted, accumulate=accumulate)
    flat = results[0][2]
    assert all(calls == 1 for calls, _, _ in results)  # besides the buckets: the loss
    sent = sum(result[1] for result in results)
    loss = 2 * (size - 1) * 8 * size * (3 + len(FIGURES))  # with each rank's figures
    assert sent == 2 * (size - 1) * flat + loss


def overlapped(world):
    """Buckets leave in the order of backward, before it has ended."""
    model = Sequential(*(Linear(64, 64) for _ in range(6)))
    flat = FlatParameters(model, allocate=world.empty)
    parallel = DataParallel(flat, world, bucket_bytes=64 * 64 * 4)
    started = []
    for slot in flat.slots:
        slot.parameter.register_post_accumulate_grad_hook(
            lambda _: started.append(len(parallel._works))
        )
    from ringlet.nn import Tensor

    x = Tensor(np.full((8, 64), 1.0 + world.rank, np.float32))
    parallel.begin()
    model(x).sum().backward()
    parallel.finish()
    return [len(parallel.buckets), started]


def test_buckets_leave_while_backward_still_runs(ranks):
    buckets, started = ranks(2).run(overlapped)[0]
    assert buckets == 6
    assert started == sorted(started)
    assert started[len(started) // 2] >= buckets // 2 - 1  # half-way, half are on their way
    assert started[-1] == buckets


def unused(world):
    """A parameter that the loss does not depend on takes part, with zeros."""
    from ringlet.nn import Tensor

    model = Sequential(Linear(4, 4), Linear(4, 4))
    flat = FlatParameters(model, allocate=world.empty)
    flat.grad.fill(np.nan)
    parallel = DataParallel(flat, world)
    for _ in range(2):
        parallel.begin()
        model[0](Tensor(np.ones((1, 4), np.float32))).sum().backward()
        parallel.finish()
    assert (model[1].weight.grad == 0).all()
    assert (model[0].bias.grad == world.size).all()


def test_a_parameter_without_gradient_counts_as_zeros(ranks):
    ranks(2).run(unused)


def test_buckets_cover_the_flat_buffer_once_from_its_end():
    flat = FlatParameters(Sequential(*(Linear(8, 8) for _ in range(5))))
    for elements in (1, 50, 72, 100, 10_000):
        buckets = make_buckets(flat.slots, elements, flat.size)
        bounds = [(bucket.stop, bucket.start) for bucket in buckets]
        assert bounds[0][0] == flat.size
        assert bounds[-1][1] == 0
        assert all(a[1] == b[0] for a, b in pairwise(bounds))
        assert all(bucket.stop - bucket.start >= elements // 4 for bucket in buckets[:-1])


def test_buckets_are_smaller_at_both_ends():
    sizes = [10 * len(numbers) for numbers in group_from_end([10] * 100, 100)]
    assert sizes == [30, 30, 60, *[100] * 7, 90, 50, 30, 10]
    assert len(sizes) == bucket_count(1000, 100)


def goes_wrong(world, folder):
    made, _ = small_trainer(world, TINY, folder, clip=0.0, checkpoint_every=5)
    made.config = replace(made.config, steps=5)
    made.run()
    made.config = replace(made.config, steps=20)
    weight = made.parallel.model.transformer.h[1].mlp.c_fc.weight
    if world.rank == 1:
        weight.data[3, 4] = np.inf  # one rank's memory: the sum tells all
    try:
        made.run()
    except NonFinite as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_step_that_is_not_finite_stops_all_ranks_and_names_the_place(ranks, tmp_path):
    texts = ranks(2).run(goes_wrong, folder=str(tmp_path))
    assert texts[0] == texts[1]
    assert "step 6: " in texts[0]
    assert "transformer.h.1.mlp.c_fc.weight holds a value that is not finite (rank 1)" in texts[0]
    assert "step-000005" in texts[0]
    assert not (tmp_path / "checkpoints" / "step-000006").exists()


def overflows(world, folder, optimizer):
    made, _ = small_trainer(
        world, TINY, folder, optimizer=optimizer, steps=1, warmup_steps=0, clip=0.0,
        learning_rate=1e39, learning_rate_floor=1e39,
    )  # fmt: skip
    try:
        made.run()
    except NonFinite as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_update_that_is_not_finite_is_not_saved(ranks, tmp_path, optimizer):
    texts = ranks(2).run(overflows, folder=str(tmp_path), optimizer=optimizer)
    assert texts[0] == texts[1]
    assert "step 1: " in texts[0]
    assert not (tmp_path / "checkpoints").exists()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0]


def test_a_line_of_metrics_that_was_cut_off_does_not_hinder(ranks, tmp_path):
    ranks(2).run(saved_run, folder=str(tmp_path))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    ranks(2).run(resumed_by_others, folder=str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(31))


def lonely(world):
    assert comm.init() is world
    made, rows = small_trainer(world, TINY)
    outcome = made.run()
    return [outcome.checkpoint is None, rows[-1]["comm_bytes"]]


def test_a_single_process_needs_no_folder_and_sends_nothing(ranks):
    assert ranks(1).run(lonely) == [[True, 0]]


class Told(Callback):
    """Keeps what it is told, and may object to a step."""

    def __init__(self, last=0):
        self.events, self.last = [], last

    def take(self, event, facts):
        self.events.append((event, facts.get("step"), facts.get("cause", "")))
        if event == "step" and facts["step"] == self.last:
            raise RuntimeError("no further")


def told(world, folder, last=0):
    config = make_config("tiny", None, {**TINY, "steps": 4, "checkpoint_every": 4, "eval_every": 2})
    callback = Told(last)
    corpus = load_corpus("pydoc", config.block_size)
    trainer = Trainer(config, corpus, world, Path(folder), [callback])
    if last:
        with pytest.raises((RuntimeError, comm.CommError)):
            trainer.run()
    else:
        trainer.run()
    return callback.events


def test_callbacks_are_told_on_rank_0_in_order(ranks, tmp_path):
    first, second = ranks(2).run(told, folder=str(tmp_path))
    events = [(event, step) for event, step, _ in first if event != "ranks"]
    assert events == [
        ("start", 0), ("evaluation", 0), ("step", 1), ("evaluation", 2), ("step", 2), ("step", 3),
        ("evaluation", 4), ("step", 4), ("checkpoint", 4), ("end", 4),
    ]  # fmt: skip
    assert ["ranks", 4, ""] in [list(each) for each in first]
    assert not second


def test_what_a_callback_raises_ends_the_training(ranks, tmp_path):
    (events,) = ranks(1).run(told, folder=str(tmp_path), last=3)
    assert [list(each) for each in events[-2:]] == [["step", 3, ""], ["failure", 3, "no further"]]
