"""Expert parallelism: rows find their experts and come back, wherever these are.

That whole models compute the same on every mesh is in test_parallel.py, what travels in
test_traffic.py.
"""

import numpy as np
import pytest
from small_runs import newest_weights, run_to_the_end

from ringlet import nn
from ringlet.nn import Tensor
from ringlet.nn.models import PretrainedError, generate
from ringlet.runtime import Mesh, latest_checkpoint, make_config
from ringlet.runtime.context.context_parallel import zigzag
from ringlet.runtime.expert.expert_parallel import (
    CombineRows,
    Dispatcher,
    DispatchRows,
    ShardedExperts,
)
from ringlet.runtime.training.config import ConfigError
from ringlet.runtime.training.export import load_model
from ringlet.runtime.training.fit import check_fit

# -- the way there and back -------------------------------------------------------------------

COUNTS = {  # rows of each rank for each of eight experts
    "one each": [[1] * 8] * 4,
    "uneven": [[0, 5, 0, 1, 2, 0, 0, 3], [7] + [0] * 7, [0] * 8, [1, 2, 3, 4, 5, 6, 7, 8]],
    "all for one": [[0, 0, 0, 9, 0, 0, 0, 0]] * 4,
    "none": [[0] * 8] * 4,
}  # fmt: skip


def rows_of(rank, counts):
    """Each row says (rank, expert, which one)."""
    found = [(rank, expert, n) for expert, count in enumerate(counts) for n in range(count)]
    return np.array(found, np.float32).reshape(-1, 3)


def dispatched(world):
    """For every case: (rows that arrived, their counts, rows that came back, gradients)."""
    results = {}
    for case, counts in COUNTS.items():
        own = np.array(counts[world.rank])
        dispatcher = Dispatcher.of(world, own)
        rows = Tensor(rows_of(world.rank, own), requires_grad=True)
        arrived = DispatchRows(dispatcher)(rows)
        home = CombineRows(dispatcher)(arrived * 2)
        home.backward(rows.data)
        results[case] = [arrived.data, dispatcher.counts, home.data, rows.grad]
    return results


def test_rows_go_to_their_experts_sorted_and_come_back(ranks):
    results = ranks(4).run(dispatched)
    for case, counts in COUNTS.items():
        every = np.concatenate([rows_of(rank, each) for rank, each in enumerate(counts)])
        order = np.lexsort((every[:, 2], every[:, 0], every[:, 1]))  # by expert, then by rank
        for rank in range(4):
            arrived, here, home, gradient = results[rank][case]
            mine = np.isin(every[order][:, 1], (2 * rank, 2 * rank + 1))
            np.testing.assert_array_equal(arrived, every[order][mine], err_msg=case)
            assert here.tolist() == np.sum(counts, axis=0)[2 * rank : 2 * rank + 2].tolist()
            own = rows_of(rank, counts[rank])
            np.testing.assert_array_equal(home, 2 * own, err_msg=case)
            np.testing.assert_array_equal(gradient, 2 * own, err_msg=case)


# -- counting over a whole sequence -----------------------------------------------------------


def counted(world, chosen):
    """What a rank of a context group counts in its part of a sequence."""
    experts = ShardedExperts(nn.Experts(2, 2, chosen.shape[2]), Mesh(world, cp=world.size), None)
    return experts.count(chosen[:, zigzag(chosen.shape[1], world.size, world.rank)])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_with_parts_of_a_sequence_count_as_if_they_had_it_whole(ranks, size):
    chosen = np.random.default_rng(0).random((3, 16, 5)) < 0.4
    before, load = nn.Experts(2, 2, 5).count(chosen)
    for rank, (part, whole) in enumerate(ranks(size).run(counted, chosen=chosen)):
        np.testing.assert_array_equal(part, before[:, zigzag(16, size, rank)])
        np.testing.assert_array_equal(whole, load)


# -- whole runs -------------------------------------------------------------------------------

TINY = {
    "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16, "batch_size": 9, "steps": 4,
    "eval_every": 4, "eval_windows": 9, "checkpoint_every": 2, "warmup_steps": 1,
    "experts": 4, "capacity_factor": 1.0, "accumulate": 2,
}  # fmt: skip


def trained(world, folder, **options):
    """The validation loss after a run."""
    outcome, _ = run_to_the_end(world, TINY, folder, **options)
    return outcome.val_loss


RUNS = [
    ("ep=2", {"zero": 1}, "cp=2", {}),
    ("ep=2,tp=2", {"zero": 3}, "dp=2,ep=2", {"zero": 2}),
    ("ep=2,pp=2", {"priority": True, "clip": 0.0}, "ep=2", {}),
    ("dp=2,ep=2", {"priority": True, "clip": 0.0}, "", {}),
]


@pytest.fixture(scope="module")
def whole(ranks, tmp_path_factory):
    """Runs of one process, by clipping."""
    results = {}

    def result(clip):
        if clip not in results:
            folder = tmp_path_factory.mktemp("whole")
            loss = ranks(1).run(trained, folder=str(folder), clip=clip)[0]
            results[clip] = loss, newest_weights(folder)
        return results[clip]

    return result


def size_of(mesh):
    return int(np.prod([int(part.split("=")[1]) for part in mesh.split(",") if part] or [1]))


@pytest.mark.parametrize(("mesh", "options", "other", "others"), RUNS)
def test_a_run_goes_on_on_any_other_mesh(ranks, whole, tmp_path, mesh, options, other, others):
    """Also where the ranks have different numbers of samples."""
    clip = options.get("clip", 1.0)
    run = {"folder": str(tmp_path), "deadline": 60, "clip": clip}
    ranks(size_of(mesh)).run(trained, **{**run, **options, "mesh": mesh, "steps": 2})
    losses = ranks(size_of(other)).run(trained, resume=True, **{**run, **others, "mesh": other})
    expected, arrays = whole(clip)
    assert losses == [pytest.approx(expected, abs=1e-5)] * size_of(other)
    for name, array in newest_weights(tmp_path).items():
        np.testing.assert_allclose(array, arrays[name], atol=1e-4, err_msg=name)


def test_replicas_that_agree_now_and_then_have_experts_of_their_own(ranks, tmp_path):
    rare = {"local_steps": 2, "batch_size": 8, "deadline": 60}
    for size, mesh in ((2, "dp=2"), (4, "dp=2,ep=2")):
        ranks(size).run(trained, folder=str(tmp_path / mesh), mesh=mesh, **rare)
    expected = newest_weights(tmp_path / "dp=2")
    for name, array in newest_weights(tmp_path / "dp=2,ep=2").items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4, err_msg=name)


def test_what_was_trained_writes_but_is_no_gpt2(ranks, tmp_path):
    ranks(2).run(trained, folder=str(tmp_path), deadline=60, mesh="ep=2", steps=2)
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    assert generate(load_model(checkpoint), np.array([[1]]), 3).shape == (1, 4)
    with pytest.raises(PretrainedError, match="4 experts in each block, and Hugging Face's GPT-2"):
        load_model(checkpoint).save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- what cannot be ---------------------------------------------------------------------------

REFUSED = {
    "parts": ({"experts": 6, "mesh": "ep=4"}, 4, "6 experts .* ep=4 parts; ep can be 1, 2, 3, 6"),
    "no experts": ({"mesh": "ep=2,dp=2"}, 4, "ep=2 shards experts, .* none: .* dp=4, would fit"),
    "choices": ({"experts": 2, "top_k": 3}, 1, "top_k is 3, and there are 2 experts; at most 2"),
    "no choice": ({"experts": 2, "top_k": 0}, 1, "top_k is 0; it must be at least 1"),
    "capacity": ({"experts": 2, "capacity_factor": -1.0}, 1, "capacity_factor is -1.0"),
    "balance": ({"experts": 2, "balance": float("nan")}, 1, "balance is nan"),
    "samples": ({"experts": 4, "mesh": "ep=4", "batch_size": 3}, 4, "cannot share a batch of 3"),
    "compression": (
        {"experts": 4, "mesh": "ep=2", "compress": "int8"},
        2,
        "experts of their own do not have; zero=0 and ep=1 would fit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_starts(case):
    options, workers, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words):
        check_fit(make_config("tiny", None, options), workers)
