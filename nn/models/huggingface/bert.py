"""BERT as Hugging Face's BERT with the masked-language head."""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ringlet.nn.backend import Array
from ringlet.nn.files import read_object
from ringlet.nn.models.activation import Activation
from ringlet.nn.models.bert import BERT, BERTConfig
from ringlet.nn.models.huggingface.adapter import Adapter, expect, known_values
from ringlet.nn.models.huggingface.folder import CONFIG, PretrainedError
from ringlet.nn.models.language_model import LanguageModel

SUPPORTED = {
    "hidden_act": Activation.KINDS,
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
}

POOLING, MODE = Path("1_Pooling") / CONFIG, "pooling_mode_"
"""Where sentence-transformers says how it pools, and how the names of its ways begin."""


class BERTAdapter(Adapter):
    """The pooler and the next-sentence head are left out, and the language head if the files have
    none, as a sentence encoder's."""

    kinds = (("bert", "BertForMaskedLM"),)
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

    def load(self, kind: type[LanguageModel], folder: Path, strict: bool) -> LanguageModel:
        model: Any = super().load(kind, folder, strict)
        if os.path.lexists(path := folder / POOLING):
            model.pooling = _pooling(read_object(path, PretrainedError))
        return model

    def adapt(
        self, config: BERTConfig, values: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> BERTConfig:
        """Files that should have a head, as their architecture says, keep it: it is missing."""
        named = values.get("architectures") or []
        expected = {"BertForMaskedLM", "BertForPreTraining"} & {*map(str, named)}
        return replace(
            config, language_head=bool(expected) or any(name.startswith("cls.") for name in arrays)
        )

    def kind_of(self, model: LanguageModel) -> tuple[str, str]:
        return "bert", "BertForMaskedLM" if model.config.language_head else "BertModel"

    def values(self, config: BERTConfig) -> dict[str, Any]:
        values = asdict(config)
        del values["language_head"]
        return values


def _pooling(values: Mapping[str, Any]) -> str:
    """How sentences are pooled; what is not known here is refused when it is used."""
    modes = [name.removeprefix(MODE) for name, on in values.items() if name.startswith(MODE) and on]
    known = {"mean_tokens": "mean", "cls_token": "cls"}
    return " and ".join(
        known.get(mode, mode) for mode in modes or [str(values.get("pooling_mode", "mean"))]
    )


BERT.files = BERTAdapter()
