"""What a training is checked for before it starts: its data, the memory, and the run that it goes
on with."""

import os

import numpy as np

from ringlet.launcher.commands.data.progress import building
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.errors import UserError, user_errors
from ringlet.runtime.checkpoint.checkpoint import Checkpoint
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.corpus import Corpus, load_corpus, packing
from ringlet.runtime.training.run_tokenizer import stored_tokenizer
from ringlet.runtime.training.tokenizers import TokenizerError


def load_data(settings: TrainConfig, vocab_size: int) -> Corpus:
    """The data for a vocabulary (0: of any size), checked as a whole; text becomes tokens here if
    that is asked for."""
    with building() as tell:
        how = settings.block_size, vocab_size or None, settings.tokenizer
        corpus = load_corpus(settings.data, *how, tell)
    with progress("checking the data"):
        for folder in corpus.folders:
            folder.verify()
    if settings.pack:
        packing(corpus, np.array([0]), settings.block_size, validation=False)
    return corpus


def check_memory(settings: TrainConfig, hosts: int) -> None:
    """Refuse what plainly has no room in the memory of so many hosts like this one."""
    width, tokens = settings.n_embd, settings.batch_size * settings.block_size
    block = (4 + 8 * max(1, settings.experts)) * width**2
    numbers = settings.n_layer * block + (settings.vocab_size + settings.block_size) * width
    room = hosts * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for what, nbytes in (("the model", 4 * numbers), ("a batch's ids", 8 * tokens)):
        if nbytes > room:
            raise UserError(
                f"{what} would take {nbytes / 2**30:,.0f} GiB, of {room / 2**30:,.0f} GiB in all"
            )


def check_steps(found: Checkpoint, settings: TrainConfig) -> None:
    """Refuse to continue a run that has reached its end."""
    if settings.steps <= found.step:
        raise UserError(
            f"the run has taken {found.step} steps already ({found.folder}); to continue, set "
            "--steps to more than that"
        )


def check_kind(found: Checkpoint, settings: TrainConfig, corpus: Corpus) -> None:
    """Refuse to continue a run with data of another kind."""
    if corpus.as_bytes != found.manifest["as_bytes"]:
        kinds = ("bytes", "ids") if corpus.as_bytes else ("ids", "bytes")
        raise UserError(f"{settings.data} holds {kinds[0]}, but the run was trained on {kinds[1]}")
    if corpus.tokenizer is not None and (own := stored_tokenizer(found)) is not None:
        with user_errors(TokenizerError):
            corpus.tokenizer.check_agrees(own, "that of the run")
