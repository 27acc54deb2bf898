"""T5 as Hugging Face's T5 and T5 1.1."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ringlet.nn.models.activation import Activation
from ringlet.nn.models.huggingface.adapter import Adapter, expect, known_values
from ringlet.nn.models.huggingface.folder import PretrainedError
from ringlet.nn.models.t5 import T5, T5Config


class T5Adapter(Adapter):
    """What belongs to all blocks is in the first or the last block there, or beside them."""

    kinds = (("t5", "T5ForConditionalGeneration"),)
    file_names = tuple(
        (f"{stack}.position_bias.", f"{stack}.block.0.layer.0.SelfAttention.")
        for stack in ("encoder", "decoder")
    )
    ignored = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
    table = "shared.weight"
    copies = (
        ("encoder.embed_tokens.weight", "shared.weight"),
        ("decoder.embed_tokens.weight", "shared.weight"),
    )

    def config(self, values: Mapping[str, Any]) -> T5Config:
        """In older files an untied head implies that its input is not scaled."""
        tied = values.get("tie_word_embeddings") is not False
        values = {"scale_decoder_outputs": tied, **values}
        if isinstance(eos := values.get("eos_token_id"), list):
            values["eos_token_id"] = eos[0] if eos else None
        known = known_values(T5Config, values)
        config = T5Config(**known)
        if config.activation not in Activation.KINDS:
            raise PretrainedError(f"feed_forward_proj is {config.feed_forward_proj!r}")
        said = {"dense_act_fn": config.activation, "is_gated_act": config.gated}
        expect(values, {key: (None, value) for key, value in said.items()})
        return config

    def values(self, config: T5Config) -> dict[str, Any]:
        decoders = {"num_decoder_layers": config.decoders, "is_encoder_decoder": True}
        return asdict(config) | decoders

    def file_name(self, name: str) -> str:
        """The last encoder block's normalization is the encoder's there."""
        return re.sub(r"^encoder\.block\.\d+\.final_", "encoder.final_", super().file_name(name))


T5.files = T5Adapter()
