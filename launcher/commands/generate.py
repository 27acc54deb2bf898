"""`ringlet generate`: continue a prompt with a trained model."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import numpy as np

from ringlet.launcher.commands.options import refuse, with_options
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.commands.train.folder import read_newest
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.nn import mkl
from ringlet.nn.backend import BackendError, use
from ringlet.nn.models import (
    BERT,
    T5,
    LanguageModel,
    PretrainedError,
    beam_search,
    from_pretrained,
    stream,
)
from ringlet.nn.models.generation.decoding import prompt_of
from ringlet.nn.safetensors import SafetensorsError
from ringlet.runtime.checkpoint.checkpoint import Checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.training.config import DEVICES
from ringlet.runtime.training.export import load_model
from ringlet.runtime.training.run_tokenizer import tokenizer_of
from ringlet.runtime.training.tokenizers import (
    Tokenizer,
    TokenizerError,
    as_text,
    load_tokenizer,
)


@dataclass(frozen=True)
class GenerateOptions:
    """Which model continues what, and how."""

    folder: Path = option(
        ..., "Folder of a training run, whose newest checkpoint is used, or of a Hugging Face "
        "model.", "--from",
    )  # fmt: skip
    prompt: str = option(
        "\n", "Text to continue (or a T5's source); ids for a model without a tokenizer.",
        shown="a newline",
    )  # fmt: skip
    max_new_tokens: int = option(400, "Number of tokens to add.", least=1)
    temperature: float = option(
        0.8, "0 always takes the likeliest; 1 follows the model.", least=0, heading="Sampling"
    )
    top_k: int = option(
        50, "Draw from this many likeliest tokens; 0: from all.", least=0, heading="Sampling"
    )
    top_p: float = option(
        1.0, "Draw from the smallest set of tokens with this probability.", heading="Sampling"
    )
    beams: int = option(
        1,
        "Beams to search with, instead of drawing, if more than 1.",
        least=1,
        most=1024,
        heading="Sampling",
    )
    seed: int = option(0, "Seed of every draw.", heading="Sampling")
    device: str = option("cpu", "cpu, or cuda: a GPU, through CuPy.")


@with_options(options=GenerateOptions)
def generate(context: click.Context, options: GenerateOptions) -> None:
    """Continue a prompt with a trained model, token by token."""
    folder, prompt = options.folder, options.prompt
    if not 0 < options.top_p <= 1:
        raise UserError(f"--top-p is {options.top_p}; it must be above 0 and at most 1")
    if options.beams > 1:
        refuse(context, ["temperature", "top_k", "top_p", "seed"], "beams search, and draw nothing")
    elif not options.temperature:
        refuse(context, ["top_k", "top_p", "seed"], "temperature 0 takes the likeliest")
    if not prompt:
        raise UserError("the prompt is empty; give at least one character")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise UserError(f"the prompt {prompt!r} is not UTF-8")
    if options.device not in DEVICES:
        raise UserError(f"--device is {options.device!r}; there are {', '.join(DEVICES)}")
    with user_errors(BackendError, mkl.BLASError):
        if options.device == "cuda":
            use("cupy")
        mkl.wanted()  # or tells what is missing
    with progress(f"reading {folder}"):
        model, tokenizer = _load(folder)
    if isinstance(model, BERT):
        raise UserError(f"{folder} holds a BERT, which says what is masked and does not generate")
    with user_errors(TokenizerError):
        ids = np.array([tokenizer.encode(prompt)])
    if not ids.size:
        raise UserError(f"the tokenizer of {folder} makes no ids of the prompt {prompt!r}")
    if ids.max() >= model.config.vocab_size:
        raise UserError(
            f"the tokenizer of {folder} gives id {ids.max()}, and its model knows ids from 0 to "
            f"{model.config.vocab_size - 1}: they do not belong together"
        )
    before = [] if isinstance(model, T5) else ids[0].tolist()
    if before:
        print(prompt, end="", flush=True)
    with user_errors(TokenizerError):
        for text in as_text(tokenizer, _continuation(model, ids, options), before):
            print(text, end="", flush=True)
    print()


def _continuation(model: LanguageModel, ids: Any, options: GenerateOptions) -> Iterator[int]:
    """The new ids, up to the end of the text."""
    if options.beams > 1:
        found = beam_search(model, ids, options.max_new_tokens, beams=options.beams, eos=model.eos)[
            0
        ]
        new = iter(found[prompt_of(model, ids).shape[1] :].tolist())
    else:
        parts = stream(
            model, ids, options.max_new_tokens, temperature=options.temperature,
            top_k=options.top_k or None, top_p=options.top_p, seed=options.seed, eos=model.eos,
        )  # fmt: skip
        new = (int(part[0]) for part in parts)
    return takewhile(lambda number: number not in model.eos, new)


def _load(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """The model of a run or of a Hugging Face folder, and its tokenizer."""
    with user_errors(CheckpointError, PretrainedError, SafetensorsError, TokenizerError, KeyError):
        if (folder / "config.json").is_file():
            model = from_pretrained(folder)
            return model, load_tokenizer(folder, model.config.vocab_size)
        return read_newest(folder, _trained)


def _trained(checkpoint: Checkpoint) -> tuple[LanguageModel, Tokenizer]:
    return load_model(checkpoint), tokenizer_of(checkpoint)
