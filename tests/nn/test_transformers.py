"""Models of the transformers library, loaded here: the same numbers, and back again.

`transformers/make_fixtures.py` has written down what the library computes; where it can be
imported, the same is compared live, with what is saved here loaded there.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from quickly import mostly_slow

from ringlet.launcher.workers.warm import load
from ringlet.nn.models import BERT, GPT, T5, Llama, beam_search, from_pretrained, generate
from ringlet.nn.models.huggingface.adapter import matches

HERE = Path(__file__).parent / "transformers"
library = load(str(HERE / "library.py"))

KINDS = {"GPT2": GPT, "Bert": BERT, "T5": T5}
CLASSES = {name: KINDS.get(kind, Llama) for name, (kind, _, _) in library.MODELS.items()}
WITH_HEAD = [name for name in CLASSES if name != "bert-encoder"]
GENERATING = [name for name in WITH_HEAD if name != "bert"]
DECODERS = [name for name in CLASSES if library.decodes(name)]
MASKS = {"left": [3, 0], "right": [0, 4], "both": [5, 6], "far": [1, 10]}
"""How much of the rows is padding: in front of the second, and at the end of the first."""


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


@pytest.mark.parametrize("name", WITH_HEAD)
def test_logits_and_gradients(name):
    assert_computes(load(name), name, expected(name))


@pytest.mark.parametrize("name", DECODERS)
def test_padded_rows(name):
    """Logits and gradients of a row are those that it has alone, and the library's."""
    model, results = load(name), expected(name)
    given = library.padding(library.inputs(name))
    ids, mask = given["input_ids"], given["attention_mask"]
    targets = np.where(mask, ids, -100)
    logits = model(ids, attention_mask=mask)
    if "padded" in results:
        seen = mask > 0
        np.testing.assert_allclose(logits.data[seen], results["padded"][seen], atol=1e-4)
    np.testing.assert_allclose(logits.data[1, 3:], model(ids[1:, 3:]).data[0], atol=2e-5)
    model(ids, targets, "sum", attention_mask=mask).backward()
    together = {key: parameter.grad.copy() for key, parameter in model.named_parameters()}
    model.zero_grad()
    (model(ids[:1], ids[:1], "sum") + model(ids[1:, 3:], ids[1:, 3:], "sum")).backward()
    for key, parameter in model.named_parameters():
        np.testing.assert_allclose(together[key], parameter.grad, atol=2e-4, err_msg=key)


@pytest.mark.parametrize(
    ("name", "case"),
    [(n, c) for n in DECODERS for c in MASKS if c == "both" or n in ("gpt2", "llama-dynamic")],
)
def test_a_padded_row_continues_as_it_would_alone(name, case):
    """To beyond the end of the context, which rows reach at different times."""
    model, ids = load(name), library.inputs(name)["ids"]
    model.context_length = 20
    front, end = MASKS[case]
    mask = np.ones_like(ids)
    mask[1, :front] = mask[0, 12 - end :] = 0
    rows = ids[:1, : 12 - end], ids[1:, front:]
    alone = [generate(model, row, 20, temperature=0)[0, row.shape[1] :] for row in rows]
    for use_cache in (True, False):
        how = {"attention_mask": mask, "use_cache": use_cache}
        together = generate(model, ids, 20, temperature=0, **how)
        np.testing.assert_array_equal(together, np.concatenate([ids, alone], axis=1))
        beams = beam_search(model, ids, 9, beams=3, **how)
        for found, row in zip(beams, rows, strict=True):
            one = beam_search(model, row, 9, beams=3)[0, row.shape[1] :]
            np.testing.assert_array_equal(found[12:], one)


@pytest.mark.parametrize("name", mostly_slow(GENERATING, *GENERATING[::2]))
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


def assert_encodes(model, results):
    given = library.inputs("bert-encoder")
    ids = given.pop("ids")
    del given["targets"]
    seen = given["attention_mask"] > 0
    for encoded in (model(ids, **given), model.encode(ids, **given)):
        np.testing.assert_allclose(encoded.data[seen], results["encoded"][seen], atol=1e-5)
    mean = results["mean"]
    np.testing.assert_allclose(model.sentence_embeddings(ids, **given).data, mean, atol=1e-5)
    unit = model.sentence_embeddings(ids, normalize=True, **given).data
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=1e-6)
    first = model.sentence_embeddings(ids, pooling="cls", **given).data
    np.testing.assert_allclose(first, results["encoded"][:, 0], atol=1e-5)


POOLINGS = {
    "mean": ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
    "cls": ({"word_embedding_dimension": 16, "pooling_mode_cls_token": True}, "cls"),
    "a name": ({"pooling_mode": "cls"}, "cls"),
    "nothing": ({"word_embedding_dimension": 16}, "mean"),
    "max": ({"pooling_mode_max_tokens": True}, "max_tokens"),
    "two": ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean and cls"),
}


@pytest.mark.parametrize("case", POOLINGS)
def test_a_folder_says_how_sentences_are_pooled(case, tmp_path):
    values, pooling = POOLINGS[case]
    shutil.copytree(HERE / "fixtures" / "bert-encoder", tmp_path / "m")
    (tmp_path / "m" / "1_Pooling").mkdir()
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text(json.dumps(values))
    model, ids = from_pretrained(tmp_path / "m"), library.inputs("bert")["ids"]
    if pooling not in ("mean", "cls"):
        with pytest.raises(ValueError, match=f"pooling is '{pooling}'; it must be mean or cls"):
            model.sentence_embeddings(ids)
        assert model.sentence_embeddings(ids, pooling="mean").shape == (2, 16)
        return
    found = model.sentence_embeddings(ids).data
    np.testing.assert_array_equal(found, model.sentence_embeddings(ids, pooling=pooling).data)


def test_a_sentence_encoder():
    model = from_pretrained(HERE / "fixtures" / "bert-encoder")
    assert_encodes(model, expected("bert-encoder"))
    ids = library.inputs("bert-encoder")["ids"]
    model.sentence_embeddings(ids, normalize=True).sum().backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.any()
    with pytest.raises(ValueError, match="no language head"):
        model(ids, ids)
    with pytest.raises(ValueError, match="pooling is 'max'"):
        model.sentence_embeddings(ids, pooling="max")


@pytest.mark.parametrize("name", CLASSES)
def test_live(name, tmp_path):
    """The library here: the round trip in both directions."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    theirs = library.build(name)
    theirs.save_pretrained(tmp_path / "theirs")
    own = load(name, tmp_path / "theirs")
    results = library.computed(theirs, name)
    if name == "bert-encoder":
        assert_encodes(own, results)
    else:
        assert_computes(own, name, results)
    ids = library.inputs(name)["ids"]
    if name in GENERATING:
        tokens = generate(own, ids, library.NEW, temperature=0)
        np.testing.assert_array_equal(tokens, results["greedy"])
    own.save_pretrained(tmp_path / "own")
    back, info = type(theirs).from_pretrained(tmp_path / "own", output_loading_info=True)
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
    assert not (missing or info["unexpected_keys"] or info["mismatched_keys"])
    for key in {"logits", "encoded"} & set(results):
        np.testing.assert_array_equal(library.computed(back.eval(), name)[key], results[key])
