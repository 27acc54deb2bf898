"""Models, one file each, in ordinary single-process code.

They may import layers and everything below; generation/ and huggingface/ are built on them. Read
gpt.py first, then language_model.py for what all models share, and llama.py, bert.py and t5.py.
"""

from ringlet.nn.models.bert import BERT, BERTConfig
from ringlet.nn.models.generation.beams import beam_search
from ringlet.nn.models.generation.sampling import generate, stream
from ringlet.nn.models.gpt import GPT, GPTConfig
from ringlet.nn.models.huggingface.auto import from_pretrained
from ringlet.nn.models.huggingface.folder import PretrainedError
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.models.llama import Llama, LlamaConfig
from ringlet.nn.models.t5 import T5, T5Config

__all__ = [
    "BERT",
    "GPT",
    "T5",
    "BERTConfig",
    "GPTConfig",
    "LanguageModel",
    "Llama",
    "LlamaConfig",
    "PretrainedError",
    "T5Config",
    "beam_search",
    "from_pretrained",
    "generate",
    "stream",
]
