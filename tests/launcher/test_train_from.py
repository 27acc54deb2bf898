"""`ringlet train --from`: what is refused, and whole runs."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import outcome

FIXTURES = Path(__file__).parents[1] / "nn" / "transformers" / "fixtures"
QUICK = ["--steps", "2", "--block-size", "8", "--batch-size", "4", "--sample", "0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With ids of a vocabulary of 23."""
    np.random.default_rng(0).integers(0, 23, 4000).astype("<u2").tofile(tmp_path / "ids.bin")
    np.full(2000, 40, "<u2").tofile(tmp_path / "more.bin")
    (tmp_path / "text.txt").write_text("some text " * 200)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copied(name, **values):
    """A fixture with other values in its config.json; its name."""
    shutil.copytree(FIXTURES / name, name)
    path = Path(name) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return name


def without(name, file):
    (Path(copied(name)) / file).unlink()
    return name


def with_file(name, file, text):
    (Path(copied(name)) / file).write_text(text)
    return name


WORDS = json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0}}, "added_tokens": []})
BAD = {
    "nothing there": (lambda: "none", [], "neither a Hugging Face model"),
    "an empty name": (lambda: "", [], "--from is empty"),
    "a file": (lambda: "text.txt", [], "neither a Hugging Face model"),
    "BERT": (lambda: copied("bert"), [], "holds a BERT"),
    "T5": (lambda: copied("t5"), [], "holds a T5"),
    "another kind": (lambda: copied("gpt2", model_type="opt"), [], "holds a 'opt'"),
    "layers": (lambda: copied("gpt2"), ["--n-layer", "6"], "n_layer 6 contradicts"),
    "model": (lambda: copied("gpt2"), ["--model", "llama"], "model llama contradicts"),
    "heads": (lambda: copied("llama"), ["--n-kv-head", "4"], "n_kv_head 4 contradicts"),
    "bias": (lambda: copied("gpt2"), ["--no-bias"], "bias False contradicts"),
    "preset": (lambda: copied("gpt2"), ["--preset", "tiny"], "--preset tiny has the sizes"),
    "a smaller vocabulary": (lambda: copied("gpt2"), ["--vocab-size", "22"], "can only grow"),
    "dropout": (lambda: copied("llama"), ["--dropout", "0.1"], "dropout is 0.1"),
    "ring": (lambda: copied("mistral"), ["--mesh", "cp=2"], "ring attention is causal"),
    "heads on ranks": (lambda: copied("llama"), ["--mesh", "tp=4"], "2 heads of keys"),
    "stretched": (lambda: copied("llama-yarn"), ["--block-size", "256"], "rope_scaling"),
    "no shard": (lambda: without("llama", "model-00003-of-00006.safetensors"), [], "has no model-"),
    "no weights": (lambda: without("gpt2", "model.safetensors"), [], "has neither"),
    "another shape": (lambda: copied("gpt2", vocab_size=24), [], "of shape (23, 16), not (24, 16)"),
    "more layers": (lambda: copied("gpt2", n_layer=3), [], "it has no transformer.h.2"),
    "fewer layers": (lambda: copied("gpt2", n_layer=1), [], "an unexpected transformer.h.1"),
    "a damaged file": (lambda: with_file("gpt2", "model.safetensors", "x"), [], "has 1 bytes"),
    "no tokenizer": (lambda: with_file("gpt2", "tokenizer.json", "{}"), [], "is not a tokenizer"),
    "older tokenizers": (
        lambda: with_file("gpt2", "vocab.json", "{}"), ["--data", "text.txt"], "has vocab.json"
    ),
    "a given vocabulary": (
        lambda: copied("gpt2"), ["--vocab-size", "30", "--data", "more.bin"], "holds id 40"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_before_anything_starts(folder, monkeypatch, capsys, case):
    make, options, text = BAD[case]
    monkeypatch.setattr(subprocess, "Popen", None)
    given = ["train", "--data", "ids.bin", *QUICK, "--from", make(), *options]
    code, out, error = outcome(capsys, *given)
    assert (code, out) == (2, "")
    assert text in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_a_model_is_trained_on_and_its_folder_is_needed_no_more(folder, capfd):
    name = copied("qwen2")
    how = ["--data", "more.bin", *QUICK, "--out", "o"]
    code, out, error = outcome(capfd, "train", *how, "--from", name, "--mesh", "tp=2")
    assert (code, error) == (0, "")
    assert "new in the model of qwen2: ids 23 to 40 of the vocabulary" in out
    shutil.rmtree(name)
    again = ["train", "--resume", "--out", "o", "--steps", "4", "--sample", "0", "-n", "1"]
    code, out, _ = outcome(capfd, *again, "--mesh", "dp=1")
    assert (code, "done after step 4" in out) == (0, True)
    code, _, error = outcome(capfd, *again, "--from", "other")
    assert (code, "leave out --from" in error) == (2, True)
    code, out, _ = outcome(capfd, "export", "--from", "o", "--to", "hf")
    assert code == 0
    assert json.loads(Path("hf/config.json").read_text())["model_type"] == "qwen2"
