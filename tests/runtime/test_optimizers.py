"""Every optimizer in a run: on data and pipeline meshes and from checkpoints, or refused."""

from pathlib import Path

import pytest

from ringlet.runtime import Trainer, load_corpus, make_config
from ringlet.runtime.training.config import OPTIMIZERS, ConfigError
from ringlet.runtime.training.factories import make_schedule
from ringlet.runtime.training.fit import check_fit

TINY = {
    "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16, "batch_size": 4, "momentum": 0.5,
    "eval_every": 99, "eval_windows": 8, "warmup_steps": 1, "learning_rate_schedule": "constant",
}  # fmt: skip
RATES = {"sgd": 0.1, "adagrad": 0.02, "muon": 0.02, "adafactor": 0.02}


def trainer(world, folder, **options):
    rate = RATES.get(options["optimizer"], 3e-3)
    config = make_config("tiny", None, {**TINY, "learning_rate": rate, **options})
    return Trainer(config, load_corpus("pydoc", config.block_size), world, folder)


def alone(world):
    """The validation losses of four steps of one process."""
    return {
        name: trainer(world, None, optimizer=name, steps=4).run().val_loss for name in OPTIMIZERS
    }


def spread(world, root):
    """The same, two of the steps with data parallelism, the others in a pipeline."""
    losses = {}
    for name in OPTIMIZERS:
        folder, zero = Path(root) / name, 0 if name in ("muon", "adafactor") else 1
        trainer(world, folder, optimizer=name, steps=2, mesh="dp=2", zero=zero).run()
        made = trainer(world, folder, optimizer=name, steps=4, mesh="pp=2")
        assert made.resume() == 2
        losses[name] = made.run().val_loss
    return losses


def test_every_optimizer_goes_on_from_any_mesh(ranks, tmp_path):
    expected = ranks(1).run(alone, deadline=60)[0]
    actual = ranks(2).run(spread, root=str(tmp_path), deadline=60)
    for losses in actual:
        for name in OPTIMIZERS:
            assert losses[name] == pytest.approx(expected[name], abs=2e-5), name
    assert max(expected.values()) < 5.5
    assert len({round(loss, 4) for loss in expected.values()}) == len(OPTIMIZERS)


@pytest.mark.parametrize(
    ("optimizer", "options", "cut"),
    [
        ("muon", {"zero": 1}, "zero would cut"),
        ("adafactor", {"mesh": "tp=2", "zero": 3}, "zero and tp would cut"),
        ("adafactor", {"mesh": "ep=2", "experts": 4}, "ep would cut"),
    ],
)
def test_what_needs_whole_matrices_is_refused_where_they_are_cut(optimizer, options, cut):
    config = make_config("tiny", None, {**TINY, "optimizer": optimizer, **options})
    with pytest.raises(
        ConfigError, match=f"{optimizer} works on whole matrices, which {cut}.*adamw"
    ):
        check_fit(config, 2)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", {0: 0.25, 3: 1, 8: 0.55, 13: 0.1}),
        ("linear", {0: 0.25, 3: 1, 8: 0.55, 13: 0.1}),
        ("constant", {0: 0.25, 3: 1, 13: 1}),
        ("inverse_sqrt", {0: 1 / 3, 2: 1, 11: 0.5}),
        ("one_cycle", {0: 0.04, 12: 4e-6}),
    ],
)
def test_learning_rates(schedule, rates):
    options = {"learning_rate": 1.0, "learning_rate_floor": 0.1, "warmup_steps": 3, "steps": 13}
    config = make_config("tiny", None, {**options, "learning_rate_schedule": schedule})
    made = make_schedule(config)
    assert {step: made(step) for step in rates} == pytest.approx(rates)
