"""A model of any kind from a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringlet.nn.models.bert import BERT
from ringlet.nn.models.gpt import GPT
from ringlet.nn.models.huggingface.adapter import Adapter, Pretrained, refusals
from ringlet.nn.models.huggingface.bert import BERTAdapter
from ringlet.nn.models.huggingface.folder import CONFIG, PretrainedError, read_config
from ringlet.nn.models.huggingface.gpt2 import GPT2Adapter
from ringlet.nn.models.huggingface.llama import LlamaAdapter
from ringlet.nn.models.huggingface.t5 import T5Adapter
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.models.llama import Llama
from ringlet.nn.models.t5 import T5
from ringlet.nn.parameter import hollow

__all__ = ["from_pretrained"]

ADAPTERS: dict[type[Adapter], type[LanguageModel]] = {
    GPT2Adapter: GPT,
    LlamaAdapter: Llama,
    BERTAdapter: BERT,
    T5Adapter: T5,
}
KINDS = {name: kind for adapter, kind in ADAPTERS.items() for name, _ in adapter.kinds}


def from_pretrained(folder: str | Path) -> LanguageModel:
    """The model in a folder, of the class that its config.json names.

    See LanguageModel.from_pretrained. Raises PretrainedError for an unknown kind.
    """
    return _kind(read_config(Path(folder)), folder).from_pretrained(folder)


def open_pretrained(folder: Path) -> Pretrained:
    """The same model without its values, and the arrays that hold them, to be read in parts."""
    kind = _kind(read_config(folder), folder)
    found: Pretrained = kind.files.open(kind, folder)
    hollow(found.model.parameters())
    return found


def described(values: Mapping[str, Any]) -> Any:
    """The config of the model that the values of a config.json describe; raises PretrainedError."""
    kind = _kind(values, CONFIG)
    with refusals(CONFIG):
        return kind.files.config(values)


def _kind(values: Mapping[str, Any], where: str | Path) -> type[LanguageModel]:
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise PretrainedError(f"{where} holds a {kind!r}; known are {', '.join(KINDS)}")
    return KINDS[kind]
