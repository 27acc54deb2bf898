"""`ringlet generate`: continue a prompt with a trained model."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ringlet.launcher.errors import UserError
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
from ringlet.runtime.checkpoint.checkpoint import latest_checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.training.config import DEVICES
from ringlet.runtime.training.export import load_model
from ringlet.runtime.training.tokenizers import (
    ByteTokenizer,
    NumberTokenizer,
    Tokenizer,
    TokenizerError,
    as_text,
    load_tokenizer,
)
from ringlet.runtime.training.trainer import CHECKPOINTS


def generate(
    folder: Annotated[
        Path,
        typer.Option(
            "--from",
            help="The folder of a run, of which the newest checkpoint is taken, or of a Hugging "
            "Face model.",
        ),
    ],
    prompt: Annotated[
        str,
        typer.Option(help="What to continue (or a T5's source): text, or ids without a tokenizer."),
    ] = "\n",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to add.")] = 400,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0: always the likeliest; 1: as the model says.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many likeliest; 0: all.")] = 50,
    top_p: Annotated[
        float, typer.Option(help="Draw from the smallest set of so much probability.")
    ] = 1.0,
    beams: Annotated[
        int, typer.Option(min=1, help="Search with so many at a time instead of drawing, if > 1.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda: a GPU, through CuPy.")] = "cpu",
) -> None:
    """Continue a prompt with a trained model; the text appears as it is made."""
    if not 0 < top_p <= 1:
        raise UserError(f"--top-p is {top_p}; it has to be above 0 and at most 1")
    if not prompt:
        raise UserError("the prompt is empty; give at least one character")
    _use(device)
    model, tokenizer = _load(folder)
    if isinstance(model, BERT):
        raise UserError(f"{folder} holds a BERT, which says what is masked and does not generate")
    try:
        ids = np.array([tokenizer.encode(prompt)])
    except TokenizerError as error:
        raise UserError(str(error)) from error
    if not ids.size:
        raise UserError(f"the tokenizer of {folder} makes no ids of the prompt {prompt!r}")
    eos = model.huggingface.get("eos_token_id")
    eos = eos if isinstance(eos, int) and eos < model.config.vocab_size else None
    drawing = {"temperature": temperature, "top_k": top_k or None, "top_p": top_p, "seed": seed}
    if not isinstance(model, T5):
        print(prompt, end="", flush=True)
    for text in as_text(tokenizer, _continuation(model, ids, max_new_tokens, beams, eos, drawing)):
        print(text, end="", flush=True)
    print()


def _continuation(
    model: LanguageModel, ids: Any, count: int, beams: int, eos: int | None, drawing: dict[str, Any]
) -> Iterator[int]:
    """The new ids, up to the end of the text."""
    if beams > 1:
        found = beam_search(model, ids, count, beams=beams, eos=eos)[0]
        new = iter(found[prompt_of(model, ids).shape[1] :].tolist())
    else:
        new = (int(part[0]) for part in stream(model, ids, count, eos=eos, **drawing))
    for number in new:
        if number == eos:
            return
        yield number


def _use(device: str) -> None:
    if device not in DEVICES:
        raise UserError(f"--device is {device!r}; there are {', '.join(DEVICES)}")
    try:
        if device == "cuda":
            use("cupy")
    except BackendError as error:
        raise UserError(str(error)) from error


def _load(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """The model of a run or of a Hugging Face folder, and what makes ids of text."""
    try:
        if (folder / "config.json").is_file():
            model = from_pretrained(folder)
            return model, load_tokenizer(folder, model.config.vocab_size)
        checkpoint = latest_checkpoint(
            folder / CHECKPOINTS, warn=lambda text: print(text, file=sys.stderr)
        )
        if checkpoint is None:
            raise UserError(f"there is no checkpoint in {folder}")
        trained = load_model(checkpoint)
        if checkpoint.manifest["as_bytes"]:
            return trained, ByteTokenizer()
        return trained, NumberTokenizer(trained.config.vocab_size)
    except (CheckpointError, PretrainedError, SafetensorsError, TokenizerError) as error:
        raise UserError(str(error)) from error
    except KeyError as error:
        raise UserError(str(error.args[0])) from error
