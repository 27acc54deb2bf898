"""What readers of the pages have: texts, tokens, folders of models; small, and in this folder."""

import gzip
import json
from pathlib import Path

import numpy as np
from texts import built, make_tokenizer, words

from ringlet.nn.models import BERT, GPT, BERTConfig, GPTConfig, Llama, LlamaConfig

VOCABULARY = 300


def text(name, count=20_000):
    """A file with a text; its folder is made."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compressed(path.suffix, words(count).encode()))


def compressed(suffix, data):
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".zst":
        import zstandard

        return zstandard.compress(data)
    return data


def rows(name, column, count=200):
    """A file of JSON lines."""
    lines = [json.dumps({column: words(100, seed)}) for seed in range(count)]
    Path(name).write_bytes(compressed(Path(name).suffix, "\n".join(lines).encode()))


def ids(name, count=100_000, vocabulary=256):
    """A file of ids as nanoGPT's prepare.py writes them."""
    (np.arange(count) * 7919 // 31 % vocabulary).astype(np.uint16).tofile(name)


def tokens(name):
    """A folder of `ringlet data build`."""
    text(f"{name}.txt")
    Path("of-tokens").mkdir(exist_ok=True)
    built(Path(name), [f"{name}.txt"], make_tokenizer(Path("of-tokens"), VOCABULARY))


def tokenizer(folder):
    """A tokenizer.json in a folder."""
    Path(folder).mkdir(exist_ok=True)
    return make_tokenizer(Path(folder), VOCABULARY)


def gpt(folder=None):
    """A small GPT, saved in a folder with a tokenizer."""
    config = GPTConfig(vocab_size=VOCABULARY, block_size=64, n_layer=2, n_head=2, n_embd=16)
    return _saved(GPT(config), folder)


def llama(folder=None, **options):
    """A small Llama, or one of its relatives."""
    return _saved(Llama(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
        num_attention_heads=2, max_position_embeddings=256, **options,
    )), folder)  # fmt: skip


def bert(folder=None):
    """A small sentence encoder."""
    return _saved(BERT(BERTConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, language_head=False,
    )), folder)  # fmt: skip


def _saved(model, folder):
    model.eval()
    if folder is not None:
        model.save_pretrained(folder)
        tokenizer(folder)
    return model
