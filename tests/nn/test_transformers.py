"""Models of the transformers library, loaded here: the same numbers, and back again.

`transformers/make_fixtures.py` has written down what the library computes; where it can be
imported, the same is compared live, with what is saved here loaded there.
"""

from pathlib import Path

import numpy as np
import pytest

from ringlet.launcher.workers.warm import load
from ringlet.nn.models import BERT, GPT, T5, Llama, beam_search, generate
from ringlet.nn.models.huggingface.adapter import matches

HERE = Path(__file__).parent / "transformers"
library = load(str(HERE / "library.py"))

CLASSES = {"gpt2": GPT, "llama": Llama, "llama3": Llama, "bert": BERT, "t5": T5, "t5-gated": T5}
GENERATING = [name for name in CLASSES if name != "bert"]


def expected(name):
    with np.load(HERE / "fixtures" / name / "computed.npz", allow_pickle=False) as file:
        return dict(file)


def load(name, folder=None):
    return CLASSES[name].from_pretrained(folder or HERE / "fixtures" / name).eval()


def assert_computes(model, name, results):
    """The library's logits, loss and gradients."""
    given = library.inputs(name)
    ids, targets = given.pop("ids"), given.pop("targets")
    seen = given.get("attention_mask", np.ones_like(ids)).astype(bool)
    if name.startswith("t5"):
        logits = model(ids, decoder_ids=model.shift_right(targets), **given)
        seen = np.ones(targets.shape, bool)
    else:
        logits = model(ids, **given)
    np.testing.assert_allclose(logits.data[seen], results["logits"][seen], atol=1e-4)
    loss = model(ids, targets, **given)
    assert abs(loss.item() - results["loss"]) < 1e-5
    model.zero_grad()
    loss.backward()
    there = {key.removeprefix("grad/") for key in results if key.startswith("grad/")}
    assert {model.files.file_name(own) for own, _ in model.named_parameters()} == there
    for own, parameter in model.named_parameters():
        name = model.files.file_name(own)
        grad = parameter.grad.T if matches(name, model.files.transposed) else parameter.grad
        np.testing.assert_allclose(grad, results[f"grad/{name}"], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", CLASSES)
def test_logits_and_gradients(name):
    assert_computes(load(name), name, expected(name))


@pytest.mark.parametrize("name", GENERATING)
def test_greedy_tokens_with_and_without_the_cache(name):
    model, tokens = load(name), expected(name)["greedy"]
    ids = library.inputs(name)["ids"]
    for use_cache in (True, False):
        own = generate(model, ids, library.NEW, temperature=0, use_cache=use_cache)
        np.testing.assert_array_equal(own, tokens)


@pytest.mark.parametrize("name", GENERATING)
def test_beam_search_finds_what_the_library_finds(name):
    model, ids = load(name), library.inputs(name)["ids"]
    for use_cache in (True, False):
        how = {"beams": 3, "length_penalty": 0.5, "use_cache": use_cache}
        np.testing.assert_array_equal(beam_search(model, ids, 20, **how), expected(name)["beams"])


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_saved_is_loaded_again(name, tmp_path):
    model = load(name)
    model.save_pretrained(tmp_path, shard_bytes=5000)
    again = load(name, tmp_path)
    assert again.config == model.config
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key], array, err_msg=key)


@pytest.mark.parametrize("name", CLASSES)
def test_live(name, tmp_path):
    """The library here: the round trip in both directions."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    theirs = library.build(name)
    theirs.save_pretrained(tmp_path / "theirs")
    own = load(name, tmp_path / "theirs")
    results = library.computed(theirs, name)
    assert_computes(own, name, results)
    ids = library.inputs(name)["ids"]
    if name != "bert":
        tokens = generate(own, ids, library.NEW, temperature=0)
        np.testing.assert_array_equal(tokens, results["greedy"])
    own.save_pretrained(tmp_path / "own")
    back, info = type(theirs).from_pretrained(tmp_path / "own", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    np.testing.assert_array_equal(library.computed(back.eval(), name)["logits"], results["logits"])
