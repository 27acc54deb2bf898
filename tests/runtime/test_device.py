"""Meshes whose ranks compute on a device, on the stand-in for CuPy (tests/fake/cupy/core.py)."""

import numpy as np
import pytest
from devices import TINY, on_device, trained
from small_runs import Rows

from ringlet import nn
from ringlet.runtime import Mesh, MeshError, Parallelism, Trainer, load_corpus, make_config
from ringlet.runtime.parallel import parallelize
from ringlet.runtime.training.config import ConfigError
from ringlet.runtime.training.fit import check_fit


def both(world, **options):
    """A run on the host, and one on the device: the same losses."""
    expected = trained(world, **options)
    with on_device() as cupy:
        actual = trained(world, **options)
        assert cupy.counts["to device"] and cupy.counts["to host"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    assert world.rank or len(expected) > 5


MESHES = {
    "dp": {},
    "accumulated": {"accumulate": 2, "recompute": "blocks", "dropout": 0.1},
    "needed first": {"priority": True, "clip": 0.0},
    "local steps": {"local_steps": 2, "outer_learning_rate": 0.7, "outer_momentum": 0.9},
    "ZeRO 1": {"zero": 1},
    "ZeRO 2": {"zero": 2},
    "ZeRO 3": {"zero": 3},
    "pp": {"mesh": "pp=2", "accumulate": 2},
    "zero-bubble": {"mesh": "pp=2", "accumulate": 2, "schedule": "zero-bubble"},
    "tp": {"mesh": "tp=2", "dropout": 0.1},
    "sequence": {"mesh": "tp=2", "sequence": True},
    "cp": {"mesh": "cp=2", "dropout": 0.1},
    "llama on cp": {"mesh": "cp=2", "model": "llama", "n_kv_head": 1},
    "llama on tp": {"mesh": "tp=2", "model": "llama"},
    "experts": {"experts": 4},
    "ep": {"mesh": "ep=2", "experts": 4},
    "int8": {"compress": "int8"},
    "PowerSGD": {"compress": "powersgd:2"},
    "muon": {"optimizer": "muon"},
}


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_of_devices_trains_as_one_of_hosts(ranks, name):
    ranks(2).run(both, **MESHES[name])


def test_all_of_them_together(ranks):
    ranks(4).run(both, mesh="tp=2,pp=2", accumulate=2, sequence=True)
    ranks(4).run(both, mesh="cp=2,ep=2", experts=4, block_size=32)


def elsewhere(world, folder):
    """What the device has saved goes on on the host, and the other way round."""
    with on_device():
        trained(world, f"{folder}/a")
    first = trained(world, f"{folder}/a", resume=True, steps=8)
    trained(world, f"{folder}/b")
    with on_device():
        second = trained(world, f"{folder}/b", resume=True, steps=8)
    np.testing.assert_allclose(first, second, rtol=1e-4)


def test_a_run_goes_on_on_the_other(ranks, tmp_path):
    ranks(2).run(elsewhere, folder=str(tmp_path))


def test_what_cannot_be_on_a_device_is_refused_before_anything_starts():
    options = {"mesh": "tp=2", "compress_activations": "int8"}
    check_fit(make_config("tiny", None, options), 2)
    with pytest.raises(ConfigError, match="compress_activations does not work on a device: the"):
        check_fit(make_config("tiny", None, {**options, "device": "cuda"}), 2)


def refused(world):
    with on_device(), pytest.raises(MeshError, match="does not work on a device"):
        model = nn.models.GPT(nn.models.GPTConfig(13, 8, 1, 2, 8))
        parallelize(model, Mesh(world, tp=2), Parallelism(compress_activations="int8"))


def test_parallelize_refuses_it_too(ranks):
    ranks(2).run(refused)


def moved_by_a_step(world, layers):
    """The transfers of a training step, and how often the host waited; rank 0's."""
    seen = []
    with on_device() as cupy:
        config = make_config("tiny", None, {**TINY, "n_layer": layers})
        corpus = load_corpus("pydoc", config.block_size)
        report = lambda row: seen.append(cupy.counts.copy())  # noqa: E731
        Trainer(config, corpus, world, callbacks=[Rows(report)]).run()
    step = seen[3] - seen[2] if seen else {}  # evaluations are at the ends
    return [step.get(name, 0) for name in ("to device", "to host", "waits")]


def test_a_step_moves_as_much_whatever_the_number_of_layers(ranks):
    shallow, deep = (ranks(1).run(moved_by_a_step, layers=layers)[0] for layers in (1, 4))
    assert shallow == deep
    assert shallow[0] < 25  # ids, positions, targets, and what sorts the embedding's gradient
    assert shallow[1:] == [2, 2]  # the loss, and the sums of squares of all gradients


def test_each_bucket_goes_to_the_host_and_back_once(ranks):
    alone, shared = (ranks(size).run(moved_by_a_step, layers=2)[0] for size in (1, 2))
    buckets = shared[1] - alone[1]
    assert buckets > 2
    assert shared[2] == alone[2] + 2 * buckets  # one wait on the way out, one on the way in
    assert abs(shared[0] - alone[0] - buckets) <= 3  # half of the ids have shorter runs
