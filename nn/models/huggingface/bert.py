"""BERT as Hugging Face's BERT with the masked-language head."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ringlet.nn.models.activation import Activation
from ringlet.nn.models.bert import BERT, BERTConfig
from ringlet.nn.models.huggingface.adapter import Adapter, expect, known_values

SUPPORTED = {
    "hidden_act": Activation.KINDS,
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "tie_word_embeddings": (True,),
}


class BERTAdapter(Adapter):
    """The pooler and the next-sentence head are left out."""

    architecture, model_type = "BertForMaskedLM", "bert"
    prefix = "bert."
    file_names = (("predictions.decoder.bias", "predictions.bias"),)
    older_names = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
    ignored = (
        "*.pooler.*",
        "*.position_ids",
        "cls.seq_relationship.*",
        "cls.predictions.decoder.*",
    )

    def config(self, values: Mapping[str, Any]) -> BERTConfig:
        expect(values, SUPPORTED)
        return BERTConfig(**known_values(BERTConfig, values))

    def values(self, config: BERTConfig) -> dict[str, Any]:
        return {**asdict(config), "tie_word_embeddings": True}


BERT.files = BERTAdapter()
