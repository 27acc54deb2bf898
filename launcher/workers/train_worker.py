"""The program of a training worker: join the world, train, report to the launcher."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ringlet import comm
from ringlet.launcher.errors import ExitCode
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.workers.worker import run_task
from ringlet.nn.backend import use
from ringlet.nn.models import generate
from ringlet.runtime.checkpoint.checkpoint import verify_checkpoint
from ringlet.runtime.training.callbacks import Callback, Facts
from ringlet.runtime.training.checks import check_same_data, check_shared, compare_products
from ringlet.runtime.training.config import check_config
from ringlet.runtime.training.corpus import first_token, load_corpus
from ringlet.runtime.training.export import load_model
from ringlet.runtime.training.run_tokenizer import tokenizer_of
from ringlet.runtime.training.start import values_of
from ringlet.runtime.training.tokenizers import NumberTokenizer, TokenizerError, as_text
from ringlet.runtime.training.trainer import Trainer


class _Forward(Callback):
    """Passes events on to the launcher, which learns of a failure in its own way."""

    def __init__(self, report: Callable[[Notice], None]) -> None:
        self._report = report

    def take(self, event: str, facts: Facts) -> None:
        if event != "failure":
            self._report({"event": event, "facts": dict(facts)})


def work(task: dict[str, Any], report: Callable[[Notice], None]) -> None:
    """Train as the task says: config, folder ("": none), resume, start (the model to start from, or
    None), sample, and variables, which pin the algorithms of collectives."""
    # Until the training loop handles it: there is nothing to save yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    config = check_config(task["config"])
    if config.device == "cuda":
        use("cupy", int(os.environ.get("LOCAL_RANK", "0")))
    corpus = load_corpus(
        config.data, config.block_size, config.vocab_size or None, config.tokenizer
    )
    os.environ.update(task["variables"])
    world = comm.init()

    def warn(text: str) -> None:
        report({"note": text})

    folder = Path(task["folder"]) if task["folder"] else None
    start, values = task["start"], None
    if start is not None and not start["goes_on"]:
        values = values_of(Path(start["path"]), config, corpus.vocab_size)
    trainer = Trainer(
        config,
        corpus,
        world,
        folder,
        callbacks=[_Forward(report)],
        warn=warn,
        flops=task.get("flops", 0.0),
        values=values,
    )
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
        compare_products(world, warn)
        if folder:
            check_same_data(world, corpus)
            check_shared(world, folder, trainer.parallel.state())
    if task["resume"] or (start is not None and start["goes_on"]):
        trainer.resume(None if start is None else Path(start["path"]))
    outcome = trainer.run()
    text = ""
    if world.rank == 0 and task["sample"] and not outcome.stopped:
        text = sample(trainer, task["sample"], report)
    speaks = corpus.as_bytes or corpus.tokenizer is not None
    report({"sample": text, "as_bytes": corpus.as_bytes, "speaks": speaks})
    world.barrier()
    comm.shutdown()
    if outcome.stopped:
        sys.exit(ExitCode.STOPPED)


def sample(trainer: Trainer, length: int, report: Callable[[Notice], None]) -> str:
    """What the saved model writes at a text's beginning."""
    corpus = trainer.corpus
    assert trainer.checkpoint is not None
    saved = verify_checkpoint(trainer.checkpoint)
    try:
        tokenizer = tokenizer_of(saved)
    except TokenizerError as error:
        report({"note": f"the sample shows ids: {error}"})
        tokenizer = NumberTokenizer(corpus.vocab_size)
    first = first_token(corpus)
    ids = generate(
        load_model(saved),
        np.array([[first]]),
        length,
        temperature=0.8,
        top_k=50,
        seed=trainer.config.seed,
    )
    return "".join(as_text(tokenizer, ids[0, 1:].tolist(), [first]))


if __name__ == "__main__":
    run_task(work)
