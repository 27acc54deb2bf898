"""Llama as Hugging Face's Llama, which has the same names."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ringlet.nn.models.huggingface.adapter import Adapter, expect, known_values
from ringlet.nn.models.huggingface.folder import PretrainedError
from ringlet.nn.models.llama import Llama, LlamaConfig


class LlamaAdapter(Adapter):
    """Rotary positions are in `rope_parameters`, or spread over the config in older files."""

    architecture, model_type = "LlamaForCausalLM", "llama"
    prefix = "model."
    ignored = ("*.rotary_emb.inv_freq",)
    table = "model.embed_tokens.weight"

    def config(self, values: Mapping[str, Any]) -> LlamaConfig:
        expect(values, {"hidden_act": ("silu",)})
        rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "linear", "llama3"):
            raise PretrainedError(
                f"rope_type is {kind!r}; this model supports default, linear and llama3"
            )
        scaling = {**rope, "rope_type": kind}
        theta = float(scaling.pop("rope_theta", values.get("rope_theta", 10000.0)))
        scaling.pop("type", None)
        known = known_values(LlamaConfig, {**values, "rope_theta": theta, "rope_scaling": None})
        return LlamaConfig(**known, rope_scaling=scaling if kind != "default" else None)

    def values(self, config: LlamaConfig) -> dict[str, Any]:
        scaling = dict(config.rope_scaling or {"rope_type": "default"})
        values = asdict(config) | {
            "num_key_value_heads": config.groups,
            "head_dim": config.width,
            "hidden_act": "silu",
            "rope_parameters": {"rope_theta": config.rope_theta, **scaling},
        }
        return values if config.rope_scaling else {**values, "rope_scaling": None}


Llama.files = LlamaAdapter()
