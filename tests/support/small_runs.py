"""Whole training runs that take a moment."""

from pathlib import Path

from ringlet.runtime import Trainer, latest_checkpoint, load_corpus, make_config
from ringlet.runtime.training.callbacks import Callback
from ringlet.runtime.training.export import load_model


class Rows(Callback):
    """Calls `report` with each row of metrics."""

    def __init__(self, report):
        self.step = report

    def evaluation(self, facts):
        if not facts["step"]:
            self.step(facts)


def small_trainer(world, sizes, folder=None, watch=None, **options):
    """A Trainer on the tiny preset with these sizes and options, and the rows that it reports; at
    each of them `watch(trainer, row)` is called."""
    rows = []

    def report(row):
        rows.append(row)
        if watch is not None:
            watch(made, row)

    config = make_config("tiny", None, {**sizes, **options})
    corpus = load_corpus(config.data, config.block_size)
    made = Trainer(config, corpus, world, folder and Path(folder), [Rows(report)], flops=1e6)
    return made, rows


def run_to_the_end(world, sizes, folder=None, resume=False, **options):
    """How such a run ended (from its newest checkpoint, with `resume`), and its rows."""
    made, rows = small_trainer(world, sizes, folder, **options)
    if resume:
        made.resume()
    return made.run(), rows


def newest_weights(folder):
    """All parameters of a run's newest checkpoint, by name."""
    model = load_model(latest_checkpoint(Path(folder) / "checkpoints"))
    return {name: parameter.data for name, parameter in model.named_parameters()}
