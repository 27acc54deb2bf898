"""`ringlet generate`: continue a prompt with a trained model."""

import codecs
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ringlet.launcher.errors import UserError
from ringlet.nn.models import GPT, stream
from ringlet.runtime.checkpoint import Checkpoint, CheckpointError, latest_checkpoint
from ringlet.runtime.data import token_bytes
from ringlet.runtime.export import load_model
from ringlet.runtime.trainer import CHECKPOINTS


def generate(
    folder: Annotated[
        Path, typer.Option("--from", help="The folder of a run; its newest checkpoint is taken.")
    ],
    prompt: Annotated[
        str, typer.Option(help="What to continue: text, or ids for a model of a .bin file.")
    ] = "\n",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to add.")] = 400,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0: always the likeliest; 1: as the model says.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many likeliest; 0: all.")] = 50,
    top_p: Annotated[
        float, typer.Option(help="Draw from the smallest set of so much probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
) -> None:
    """Continue a prompt with a trained model; the text appears as it is made."""
    if not 0 < top_p <= 1:
        raise UserError(f"--top-p is {top_p}; it has to be above 0 and at most 1")
    checkpoint = latest_checkpoint(folder / CHECKPOINTS, warn=lambda t: print(t, file=sys.stderr))
    if checkpoint is None:
        raise UserError(f"there is no checkpoint in {folder}")
    as_bytes = checkpoint.manifest["as_bytes"]
    model = _load(checkpoint)
    ids = _encode(prompt, as_bytes, model.config.vocab_size)
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    print(prompt, end="", flush=True)
    parts = stream(
        model,
        np.array([ids]),
        max_new_tokens,
        temperature=temperature,
        top_k=top_k or None,
        top_p=top_p,
        seed=seed,
    )
    for part in parts:
        number = int(part[0])
        print(decode(token_bytes(number)) if as_bytes else f" {number}", end="", flush=True)
    print(decode(b"", final=True))


def _load(checkpoint: Checkpoint) -> GPT:
    try:
        return load_model(checkpoint)
    except CheckpointError as error:
        raise UserError(str(error)) from error


def _encode(prompt: str, as_bytes: bool, vocab_size: int) -> list[int]:
    if not prompt:
        raise UserError("the prompt is empty; give at least one character")
    if as_bytes:
        return list(prompt.encode())
    try:
        ids = [int(word) for word in prompt.split()]
    except ValueError:
        ids = []
    if not ids or not all(0 <= number < vocab_size for number in ids):
        raise UserError(f"this model knows ids from 0 to {vocab_size - 1}; give some as the prompt")
    return ids
