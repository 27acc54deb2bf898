"""A model of whatever kind from a folder."""

from pathlib import Path

from ringlet.nn.models.bert import BERT
from ringlet.nn.models.gpt import GPT
from ringlet.nn.models.huggingface.pretrained import PretrainedError, read_config
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.models.llama import Llama
from ringlet.nn.models.t5 import T5

KINDS: dict[str, type[LanguageModel]] = {kind.model_type: kind for kind in (GPT, Llama, BERT, T5)}


def from_pretrained(folder: str | Path) -> LanguageModel:
    """The model in a folder, of the class that its config.json names; see Pretrained.

    Raises PretrainedError for a kind that is not built here.
    """
    kind = read_config(Path(folder)).get("model_type")
    if kind not in KINDS:
        raise PretrainedError(f"{folder} holds a {kind!r}; there are {', '.join(KINDS)}")
    return KINDS[kind].from_pretrained(folder)
