"""`ringlet generate` from the folder of a Hugging Face model."""

from pathlib import Path

import pytest

from ringlet.launcher.commands.generate import generate
from ringlet.launcher.errors import UserError
from ringlet.nn.models import GPT, GPTConfig

FIXTURES = Path(__file__).parents[1] / "nn" / "transformers" / "fixtures"
HOW = {
    "prompt": "3 4 5", "max_new_tokens": 6, "temperature": 0.0, "top_k": 0, "top_p": 1.0,
    "beams": 1, "seed": 0,
}  # fmt: skip


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_a_model_without_a_tokenizer_takes_and_gives_ids(capsys, name, beams):
    generate(folder=FIXTURES / name, **{**HOW, "beams": beams})
    text = capsys.readouterr().out
    words = text.removeprefix("3 4 5").split()
    assert text.startswith("3 4 5 ") or name == "t5"
    assert 0 < len(words) <= 6
    assert all(0 <= int(word) < 23 for word in words)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds a BERT, which says what is masked"):
        generate(folder=FIXTURES / "bert", **HOW)
    with pytest.raises(UserError, match="ids from 0 to 22"):
        generate(folder=FIXTURES / "gpt2", **{**HOW, "prompt": "text"})
    with pytest.raises(UserError, match="there is no checkpoint"):
        generate(folder=tmp_path, **HOW)
    GPT(GPTConfig(5, 4, 1, 1, 4)).save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="has 5 bytes"):
        generate(folder=tmp_path / "a", **HOW)
