"""Whole models out of checkpoints, whichever mesh saved them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.nn import uninitialized
from ringlet.nn.models import GPT
from ringlet.nn.tensor import Array
from ringlet.runtime.checkpoint import Checkpoint
from ringlet.runtime.config import check_config
from ringlet.runtime.restore import Reader, load_parameters

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""GPT-2's files hold these as (in, out)."""


def load_model(checkpoint: Checkpoint) -> GPT:
    """The model of a training run, whole; raises CheckpointError if something is missing."""
    config = check_config(checkpoint.manifest["config"])
    with uninitialized():
        model = GPT(config.gpt(checkpoint.manifest["vocab_size"]))
    load_parameters(checkpoint, model)
    return model


def export_huggingface(checkpoint: Checkpoint, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` as Hugging Face's GPT-2 reads them.

    Raises FileExistsError if the folder holds a model already.
    """
    from safetensors.numpy import save_file

    config = folder / "config.json"
    if config.exists():
        raise FileExistsError(f"{folder} holds a model already")
    folder.mkdir(parents=True, exist_ok=True)
    settings = check_config(checkpoint.manifest["config"]).gpt(checkpoint.manifest["vocab_size"])
    with uninitialized():
        names = list(GPT(settings).state_dict())
    reader = Reader(checkpoint)
    arrays = {name: _as_saved(name, reader.whole(f"parameters/{name}")) for name in names}
    if not settings.bias:
        arrays |= _zero_biases(arrays)
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    config.write_text(json.dumps(huggingface_config(settings), indent=2) + "\n")


def _as_saved(name: str, array: Array) -> Array:
    return np.ascontiguousarray(array.T) if name.endswith(TRANSPOSED) else array


def _zero_biases(arrays: dict[str, Array]) -> dict[str, Array]:
    """GPT-2 always has biases; where a model has none they are zeros."""
    return {
        name.removesuffix("weight") + "bias": np.zeros(array.shape[1], array.dtype)
        for name, array in arrays.items()
        if name.endswith(TRANSPOSED)
    }


def huggingface_config(settings: Any) -> dict[str, Any]:
    """The `config.json` of a GPT-2 of these sizes."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": settings.vocab_size,
        "n_positions": settings.block_size,
        "n_ctx": settings.block_size,
        "n_embd": settings.n_embd,
        "n_layer": settings.n_layer,
        "n_head": settings.n_head,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": settings.dropout,
        "embd_pdrop": settings.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
