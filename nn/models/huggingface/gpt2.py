"""GPT as Hugging Face's GPT-2."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.models.gpt import GPT, GPTConfig
from ringlet.nn.models.huggingface.adapter import Adapter, expect, matches, number
from ringlet.nn.models.huggingface.folder import PretrainedError
from ringlet.nn.models.language_model import LanguageModel

SUPPORTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "add_cross_attention": (False,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
"""What a config.json may say besides sizes."""

SAME_NAMES = ("vocab_size", "n_embd", "n_layer", "n_head")


class GPT2Adapter(Adapter):
    """Its linear weights are (in, out) in files."""

    kinds = (("gpt2", "GPT2LMHeadModel"),)
    prefix = "transformer."
    transposed = ("*.attn.c_attn.weight", "*.c_proj.weight", "*.mlp.c_fc.weight")
    ignored = ("*.attn.bias", "*.attn.masked_bias")
    table = "transformer.wte.weight"

    def config(self, values: Mapping[str, Any]) -> GPTConfig:
        """The dropout is that of the residuals."""
        expect(values, SUPPORTED)
        width = number(values, "n_embd")
        if values.get("n_inner") not in (None, 4 * width):
            raise PretrainedError(f"n_inner is {values['n_inner']}; it must be 4 x n_embd")
        return GPTConfig(
            **{name: number(values, name) for name in SAME_NAMES},
            block_size=number(values, "n_positions", 1024),
            dropout=values.get("resid_pdrop", 0.1),
            eps=values.get("layer_norm_epsilon", 1e-5),
            tie_word_embeddings=values.get("tie_word_embeddings") is not False,
        )

    def values(self, config: GPTConfig) -> dict[str, Any]:
        if config.n_expert:
            raise PretrainedError(
                f"this model has {config.n_expert} experts in each block, and Hugging Face's GPT-2 "
                "has none: it cannot be saved as one"
            )
        return {
            **{name: getattr(config, name) for name in SAME_NAMES},
            "n_positions": config.block_size,
            "n_ctx": config.block_size,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": config.eps,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": config.tie_word_embeddings,
        }

    def file_state(self, model: LanguageModel) -> dict[str, Array]:
        """GPT-2 always has biases; a model without them gets zeros."""
        state = super().file_state(model)
        if not model.config.bias:
            for name, array in list(state.items()):
                if matches(name, self.transposed):
                    bias = np.zeros(array.shape[1], array.dtype)
                    state[name.removesuffix("weight") + "bias"] = bias
        return state


GPT.files = GPT2Adapter()
