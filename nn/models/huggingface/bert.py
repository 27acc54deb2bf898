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
    )
    head, table = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    copies = (("cls.predictions.decoder.bias", "cls.predictions.bias"),)

    def config(self, values: Mapping[str, Any]) -> BERTConfig:
        expect(values, SUPPORTED)
        return BERTConfig(**known_values(BERTConfig, values))

    def values(self, config: BERTConfig) -> dict[str, Any]:
        return asdict(config)


BERT.files = BERTAdapter()
