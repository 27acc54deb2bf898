"""`ringlet generate` from the folder of a Hugging Face model."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from quickly import mostly_slow

from ringlet.launcher.commands import generate as command
from ringlet.launcher.errors import UserError
from ringlet.nn.models import GPT, GPTConfig

FIXTURES = Path(__file__).parents[1] / "nn" / "transformers" / "fixtures"
HOW = {
    "prompt": "3 4 5", "max_new_tokens": 6, "temperature": 0.0, "top_k": 0, "top_p": 1.0,
    "beams": 1, "seed": 0, "context": None,
}  # fmt: skip

generate = command.generate.callback


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_a_model_without_a_tokenizer_takes_and_gives_ids(capsys, name, beams):
    generate(folder=FIXTURES / name, **{**HOW, "beams": beams})
    text = capsys.readouterr().out
    words = text.removeprefix("3 4 5").split()
    assert text.startswith("3 4 5 ") or name == "t5"
    assert 0 < len(words) <= 6
    assert all(0 <= int(word) < 23 for word in words)


@pytest.mark.parametrize("beams", [1, 3])
def test_it_stops_at_the_ids_that_the_files_name(capsys, tmp_path, beams):
    shutil.copytree(FIXTURES / "gpt2", tmp_path / "m")
    how = {**HOW, "beams": beams}
    generate(folder=tmp_path / "m", **how)
    words = capsys.readouterr().out.split()[3:]
    file = tmp_path / "m" / "generation_config.json"
    for ends in ([22, int(words[2])], int(words[2])):
        file.write_text(json.dumps({"eos_token_id": ends}))
        generate(folder=tmp_path / "m", **how)
        new = capsys.readouterr().out.split()[3:]
        assert words[2] not in new
        assert beams > 1 or new == words[: words.index(words[2])]


class Words:
    """A tokenizer as SentencePiece: each word begins with a space, except the first of a text."""

    def encode(self, text):
        return [3, 4, 5]

    def decode(self, ids):
        return " ".join(f"w{number}" for number in ids)


def test_a_continuation_begins_with_its_space(capsys, monkeypatch):
    module = sys.modules["ringlet.launcher.commands.generate"]
    monkeypatch.setattr(module, "load_tokenizer", lambda folder, vocab_size: Words())
    generate(folder=FIXTURES / "gpt2", **{**HOW, "prompt": "w3 w4 w5"})
    words = capsys.readouterr().out.split(" ")
    assert words[:3] == ["w3", "w4", "w5"]
    assert len(words) == 9


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds a BERT, which says what is masked"):
        generate(folder=FIXTURES / "bert", **HOW)
    with pytest.raises(UserError, match="ids from 0 to 22"):
        generate(folder=FIXTURES / "gpt2", **{**HOW, "prompt": "text"})
    with pytest.raises(UserError, match="there is no checkpoint"):
        generate(folder=tmp_path, **HOW)
    with pytest.raises(UserError, match=r"prompt 'caf.udce9' is not UTF-8"):
        generate(folder=FIXTURES / "gpt2", **{**HOW, "prompt": "caf\udce9"})
    GPT(GPTConfig(5, 4, 1, 1, 4)).save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="has 5 bytes"):
        generate(folder=tmp_path / "a", **HOW)


NO_VALUES = [None, [], {}, "x", -1, 0, 1.5, 3, 10**30, 1 << 40, True, float("nan")]
"""What config.json may say where a number, a name or an object belongs."""


@pytest.mark.parametrize(
    "name", mostly_slow(["gpt2", "llama", "mistral", "qwen3", "t5"], "gpt2", "llama")
)
def test_whatever_a_config_says_gives_text_or_one_line(capsys, tmp_path, name):
    shutil.copytree(FIXTURES / name, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    good = json.loads(config.read_text())
    ropes = [
        {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0},
        {"rope_type": "yarn", "factor": 2.0, "beta_fast": 9.0, "truncate": False, "mscale": 1.0},
        {"rope_type": "dynamic", "factor": 2.0, "partial_rotary_factor": 1.0},
    ]
    inner = [{**rope, key: value} for rope in ropes for key in rope for value in NO_VALUES]
    nested = {"rope_parameters": inner, "rope_scaling": inner} if name == "llama" else {}
    refused = 0
    for key in {*good, "rope_parameters", "rope_scaling", "n_inner", "resid_pdrop", "model_type"}:
        for value in (*NO_VALUES, *nested.get(key, ())):
            config.write_text(json.dumps({**good, key: value}))
            try:
                generate(folder=tmp_path / "m", **{**HOW, "max_new_tokens": 1})
            except UserError as error:
                refused += 1
                assert len(str(error).splitlines()) == 1
    assert refused > 50


def test_a_tokenizer_whose_ids_the_model_does_not_know(tmp_path):
    library = pytest.importorskip("tokenizers")
    shutil.copytree(FIXTURES / "gpt2", tmp_path / "m")
    made = library.Tokenizer(library.models.WordLevel({"a": 0, "b": 23}, unk_token="a"))
    made.save(str(tmp_path / "m" / "tokenizer.json"))
    with pytest.raises(UserError, match="gives id 23, and its model knows ids from 0 to 22"):
        generate(folder=tmp_path / "m", **{**HOW, "prompt": "b"})
