"""Llama as Hugging Face's Llama, Mistral, Qwen2 and Qwen3, which have the same names."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ringlet.nn.models.huggingface.adapter import Adapter, expect, known_values, number
from ringlet.nn.models.huggingface.folder import CONFIG, PretrainedError
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.models.llama import FULL, SLIDING, Llama, LlamaConfig

SUPPORTED = {
    "hidden_act": ("silu",),
    "partial_rotary_factor": (None, 1),
    "use_sliding_window": (None, False, True),
}

KINDS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"qkv_bias": False, "qk_norm": False, "sliding_window": 0, "layer_types": ()},
    "mistral": {
        "qkv_bias": False, "qk_norm": False, "attention_bias": False, "mlp_bias": False,
        "layer_types": (),
    },
    "qwen2": {"qkv_bias": True, "qk_norm": False, "attention_bias": False, "mlp_bias": False},
    "qwen3": {"qkv_bias": False, "qk_norm": True, "mlp_bias": False},
}  # fmt: skip
"""What models of a model_type have in common: it is not in their files."""

QWEN = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": QWEN,
    "qwen3": {**QWEN, "head_dim": 128},
}
"""What a config.json that does not say otherwise means, where it is another value than here."""


class LlamaAdapter(Adapter):
    """Rotary positions are in `rope_parameters`, or spread over the config in older files."""

    kinds = (
        ("llama", "LlamaForCausalLM"),
        ("mistral", "MistralForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
    )
    prefix = "model."
    ignored = ("*.rotary_emb.inv_freq",)
    table = "model.embed_tokens.weight"

    def config(self, values: Mapping[str, Any]) -> LlamaConfig:
        expect(values, SUPPORTED)
        kind = values["model_type"]
        if kind == "llama":
            expect(values, {"sliding_window": (None,), "layer_types": (None,)})
        values = {**DEFAULTS[kind], **values}
        if values.get("head_dim") is None:
            values["head_dim"] = number(values, "hidden_size") // number(
                values, "num_attention_heads"
            )
        theta, scaling = _rope(values)
        windows = _windows(values) if "sliding_window" not in KINDS[kind] else {}
        return LlamaConfig(
            **{
                **known_values(LlamaConfig, {**values, "rope_theta": theta, **NOT_SIZES}),
                **windows,
                **KINDS[kind],
                "rope_scaling": scaling,
            }
        )

    def kind_of(self, model: LanguageModel) -> tuple[str, str]:
        """That of the folder it came from, or else the first that has all that the model has."""
        config = model.config
        for kind in (model.huggingface.get("model_type", "llama"), *KINDS):
            if all(getattr(config, name) == value for name, value in KINDS[kind].items()):
                return kind, dict(self.kinds)[kind]
        raise PretrainedError(
            f"no model of {', '.join(KINDS)} has together what this one has: qkv_bias "
            f"{config.qkv_bias}, qk_norm {config.qk_norm}, attention_bias {config.attention_bias}, "
            f"mlp_bias {config.mlp_bias}, sliding_window {config.sliding_window}"
        )

    def values(self, config: LlamaConfig) -> dict[str, Any]:
        scaling, window = config.rope_scaling or {"rope_type": "default"}, config.sliding_window
        values = asdict(config) | {
            "num_key_value_heads": config.groups,
            "head_dim": config.width,
            "hidden_act": "silu",
            "rope_parameters": {"rope_theta": config.rope_theta, **scaling},
        }
        for name in ("qkv_bias", "qk_norm", "layer_types", *([] if window else ["sliding_window"])):
            del values[name]
        if config.qkv_bias or config.qk_norm:
            types = [SLIDING if each else FULL for each in config.windows]
            more = {"sliding_window": window or None, "use_sliding_window": window > 0}
            values |= {**more, "layer_types": types}
        return values if config.rope_scaling else {**values, "rope_scaling": None}


NOT_SIZES = dict.fromkeys(("rope_scaling", "sliding_window", "layer_types", "qkv_bias", "qk_norm"))
"""Fields whose values are not read as they stand."""


def _rope(values: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The base of the angles, and how they are scaled."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    scaling = {name: value for name, value in given.items() if value is not None}
    expect(scaling, {"partial_rotary_factor": (1,)})
    scaling.pop("partial_rotary_factor", None)
    kind = scaling.pop("type", "default")
    kind = scaling.setdefault("rope_type", kind)
    theta = scaling.pop("rope_theta", values.get("rope_theta"))
    theta = 10000.0 if theta is None else float(theta)
    if scaling == {"rope_type": "default"}:
        return theta, None
    if kind in ("llama3", "yarn"):
        length = values.get("max_position_embeddings")
        original = values.get("original_max_position_embeddings")
        scaling["original_max_position_embeddings"] = (
            original or scaling.get("original_max_position_embeddings") or length
        )
        if kind == "yarn" and "factor" not in scaling:
            scaling["factor"] = length / scaling["original_max_position_embeddings"]
    return theta, scaling


def _windows(values: Mapping[str, Any]) -> dict[str, Any]:
    """The window, and which layers have it."""
    window, layers = values.get("sliding_window"), number(values, "num_hidden_layers")
    if values["model_type"] == "mistral":
        expect(values, {"layer_types": (None, [SLIDING if window else FULL] * layers)})
        return {"sliding_window": 0 if window is None else number(values, "sliding_window")}
    if values.get("use_sliding_window") is not True:
        window = None
    types = values.get("layer_types")
    if types is None:
        first = layers if window is None else number(values, "max_window_layers", least=0)
        types = [SLIDING if place >= first else FULL for place in range(layers)]
    if window is None and SLIDING in types:
        raise PretrainedError(f"{CONFIG} has layer_types of {SLIDING}, and no sliding_window")
    return {
        "sliding_window": number(values, "sliding_window") if SLIDING in types else 0,
        "layer_types": () if types == [FULL] * layers else tuple(types),
    }


Llama.files = LlamaAdapter()
