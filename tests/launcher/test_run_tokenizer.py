"""The tokenizer of a run: in its folder, in what it writes, and in what is exported."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import outcome

from ringlet.runtime import Trainer, load_corpus, make_config
from ringlet.runtime.training.run_tokenizer import RunTokenizer
from ringlet.runtime.training.tokenizers import (
    ByteTokenizer,
    TokenizerError,
    byte_tokenizer,
    load_tokenizer,
)

TEXT = "The quick brown fox — zwölf Boxkämpfer — jagt 日本 über den Deich. 😀 " * 60
END = "<|endoftext|>"
SIZES = {
    "block_size": 64, "n_layer": 1, "n_head": 2, "n_embd": 16, "batch_size": 4, "steps": 3,
    "eval_every": 3, "eval_windows": 3, "warmup_steps": 1, "learning_rate": 0.02,
}  # fmt: skip


def make_tokenizer(path, size=300):
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    made.save(str(path))
    return made


def trained(world, folder, kind, model):
    """A run on bytes, on ids, or on tokens with their tokenizer."""
    data = Path(folder) / ("text.txt" if kind == "bytes" else "ids.bin")
    corpus = load_corpus(str(data), SIZES["block_size"])
    if kind == "tokens":
        corpus = replace(corpus, tokenizer=RunTokenizer.at(Path(folder) / "tokenizer.json"))
    config = make_config("tiny", options={**SIZES, "model": model, "data": str(data)})
    Trainer(config, corpus, world, Path(folder) / "run").run()


@pytest.fixture
def run(ranks, tmp_path, monkeypatch):
    """Makes such a run, in run/."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)

    def make(kind, model="gpt"):
        if kind != "bytes":
            made = make_tokenizer("tokenizer.json")
            ids = [*made.encode(TEXT).ids, made.token_to_id(END)]
            np.array(ids, "<u2").tofile("ids.bin")
        ranks(1).run(trained, folder=str(tmp_path), kind=kind, model=model)

    return make


GREEDY = ["--prompt", "The quick 日本", "--temperature", "0", "--max-new-tokens", "12"]


@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_a_run_and_its_export_write_the_same_text(run, capsys, kind):
    run(kind)
    code, text, _ = outcome(capsys, "generate", "--from", "run", *GREEDY)
    assert code == 0
    assert text.startswith("The quick 日本")
    code, out, _ = outcome(capsys, "export", "--from", "run", "--to", "hf")
    assert (code, "tokenizer.json" in out) == (0, True)
    assert outcome(capsys, "generate", "--from", "hf", *GREEDY) == (0, text, "")
    config = json.loads(Path("hf/config.json").read_text())
    beside = json.loads(Path("hf/tokenizer_config.json").read_text())
    end = 0 if kind == "tokens" else None
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [end, end, None]
    assert beside.get("eos_token") == (END if kind == "tokens" else None)
    assert beside["model_max_length"] == 64
    Path("data").mkdir()
    Path("data/tokenizer.json").write_text("{}")
    for folder, holds in (("run", "checkpoints"), ("data", "tokenizer.json")):
        code, out, error = outcome(capsys, "export", "--from", "run", "--to", folder)
        assert (code, out) == (2, "")
        assert f"{folder} holds {holds} already: choose another --to" in error


def test_a_run_of_ids_alone_speaks_numbers(run, capsys):
    run("ids")
    code, out, _ = outcome(capsys, "export", "--from", "run", "--to", "hf")
    assert (code, "wrote config.json and model.safetensors" in out) == (0, True)
    assert not Path("hf/tokenizer.json").exists()
    assert not Path("run/tokenizer.json").exists()
    code, out, _ = outcome(capsys, "generate", "--from", "run", "--prompt", "1 2")
    assert (code, out.startswith("1 2 ")) == (0, True)


def test_a_tokenizer_that_is_changed_or_gone_is_refused(run, capsys):
    run("tokens")
    file = Path("run/tokenizer.json")
    assert file.read_bytes() == Path("tokenizer.json").read_bytes()
    file.write_text(file.read_text() + " ")
    for text in ("is not the tokenizer that the run was trained with", "cannot be read"):
        for command in (["generate", "--from", "run"], ["export", "--from", "run", "--to", "hf"]):
            code, out, error = outcome(capsys, *command)
            assert (code, out, len(error.splitlines())) == (2, "", 1)
            assert text in error
        file.unlink(missing_ok=True)


def test_the_tokenizer_of_bytes(tmp_path):
    """The library reads what is exported for a run of bytes."""
    file = tmp_path / "tokenizer.json"
    file.write_text(byte_tokenizer(), encoding="utf-8")
    assert isinstance(load_tokenizer(tmp_path, 256), ByteTokenizer)
    library = pytest.importorskip("tokenizers").Tokenizer.from_file(str(file))
    text = bytes(range(256)).decode("latin-1") + "日本 😀"
    assert library.encode(text).ids == list(text.encode())
    assert library.decode(library.encode(text).ids) == text


def test_ids_that_mean_something_else(tmp_path):
    make_tokenizer(tmp_path / "a.json", 300)
    make_tokenizer(tmp_path / "b.json", 290)
    words = {"model": {"type": "Unigram", "vocab": [["x", 0.0], [END, 0.0]]}, "added_tokens": []}
    (tmp_path / "c.json").write_text(json.dumps(words))
    a, b, c = (RunTokenizer.at(tmp_path / f"{name}.json") for name in "abc")
    assert (a.vocab_size, b.vocab_size, c.vocab_size) == (300, 290, 2)
    assert (a.end_of_text, c.end_of_text) == (0, 1)
    a.check_agrees(b, "mine")  # the one has more merges than the other
    b.check_agrees(a, "mine")
    with pytest.raises(TokenizerError, match="another tokenizer than mine: id 0 is 'x'"):
        c.check_agrees(a, "mine")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt", "llama"])
@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_transformers_continues_a_text_alike(run, capsys, kind, model):
    library, _ = pytest.importorskip("transformers"), pytest.importorskip("torch")
    run(kind, model)
    expected = outcome(capsys, "generate", "--from", "run", *GREEDY)[1]
    assert outcome(capsys, "export", "--from", "run", "--to", "hf")[0] == 0
    tokenizer = library.AutoTokenizer.from_pretrained("hf")
    theirs = library.AutoModelForCausalLM.from_pretrained("hf")
    given = tokenizer(GREEDY[1], return_tensors="pt", return_token_type_ids=False)
    ids = theirs.generate(**given, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.rstrip("\ufffd") == expected.removesuffix("\n")
    assert tokenizer.eos_token == (END if kind == "tokens" else None)
