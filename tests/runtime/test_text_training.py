"""Training on folders of tokens: which context comes when, epochs, mixtures, documents, bytes."""

import numpy as np
import pytest
from small_runs import run_to_the_end
from texts import built, ids_by_document, make_tokenizer, words, written

from ringlet.runtime import DataError, load_corpus
from ringlet.runtime.mesh import share
from ringlet.runtime.text.order import Order, shares, shuffled
from ringlet.runtime.text.spans import Span, Spans
from ringlet.runtime.training.corpus import (
    Sampler,
    packing,
    training_batch,
    validation_offsets,
    windows,
)

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of tokens by one tokenizer, and one by another."""
    place = tmp_path_factory.mktemp("texts")
    tokenizer = make_tokenizer(place)
    for name, count in (("a", 40), ("b", 90)):
        texts = (words(20 + 7 * n % 50, n) for n in range(count))
        built(place / name, [written(place / f"{name}-text", texts)], tokenizer, shard_tokens=500)
    (place / "other").mkdir()
    other = make_tokenizer(place / "other", 270)
    built(place / "c", [written(place / "c-text", [words(900)])], other)
    return place


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000])
def test_a_shuffle_is_a_permutation_that_the_secret_decides(size):
    found = shuffled(np.arange(size), size, 12345)
    assert sorted(found) == list(range(size))
    if size > 16:
        assert not np.array_equal(found, shuffled(np.arange(size), size, 54321))
        assert abs(np.corrcoef(found, np.arange(size))[0, 1]) < 0.5
    np.testing.assert_array_equal(shuffled(np.array([size - 1]), size, 12345), found[-1:])


def test_every_context_comes_once_in_each_epoch():
    order = Order([1000], [1.0], 10, seed=4)
    count = int(order.contexts[0])
    assert count == 99
    epochs = [order.find(np.arange(n * count, (n + 1) * count))[1] for n in range(3)]
    for offsets in epochs:
        assert np.all(np.diff(np.sort(offsets)) == 10)
        assert offsets.min() >= 0
        assert offsets.max() + 10 < 1000
    assert len({tuple(each) for each in epochs}) == 3
    assert len({each.min() for each in epochs}) > 1  # they begin elsewhere
    assert order.epochs(0) == [0]
    assert order.epochs(count) == [1]
    assert order.epochs(count // 3) == [pytest.approx(1 / 3)]


def test_texts_have_their_shares():
    lengths = [50_000, 500_000, 90_000]
    order = Order(lengths, [3.0, 1.0, 0.001], 20, seed=4)
    texts, offsets = order.find(np.arange(20_000))
    assert np.bincount(texts).tolist() == [14996, 4998, 6]
    assert np.bincount(order.find(np.arange(400))[0])[0] == pytest.approx(300, abs=40)
    ends = np.array(lengths)[texts]
    assert np.all(offsets + 20 < ends)
    seen = order.epochs(20_000)
    assert seen == [
        pytest.approx(14996 / 2499),
        pytest.approx(4998 / 24999),
        pytest.approx(6 / 4499),
    ]
    for text in range(3):
        mine = offsets[texts == text][: order.contexts[text]]
        assert len(set(mine.tolist())) == len(mine)
    parts = [order.find(np.arange(start, start + 7)) for start in range(0, 70, 7)]
    for number, whole in enumerate(order.find(np.arange(70))):
        np.testing.assert_array_equal(np.concatenate([part[number] for part in parts]), whole)


@pytest.mark.parametrize("slots", [3, 10, 1000])
def test_shares_add_up(slots):
    for weights in ([1, 1, 1], [1e-9, 1, 1e-9], [5, 3, 0.1]):
        found = shares(weights, slots)
        assert sum(found) == slots
        assert min(found) >= 1


def test_a_folder_is_loaded(folders):
    corpus = load_corpus(str(folders / "b"), 16)
    folder = corpus.folders[0]
    assert (corpus.name, corpus.as_bytes) == ("b", False)
    assert corpus.vocab_size == folder.vocab_size
    assert corpus.tokenizer.file == folders / "b" / "tokenizer.json"
    assert len(corpus.train) + len(corpus.validation) == folder.tokens
    begin = corpus.validation.spans[0].start
    assert begin == folder.document(int(folder.documents_of(np.array([begin]))[0]))[0]
    whole = [n for ids in ids_by_document(folders / "b") for n in ids]
    ids, targets = windows(corpus.train, np.array([0, 450, 700]), 16)
    for row, start in enumerate((0, 450, 700)):
        assert ids[row].tolist() == whole[start : start + 16]
        assert targets[row].tolist() == whole[start + 1 : start + 17]
    assert load_corpus(f"{folders}/b=2", 16).digest() == corpus.digest()
    assert load_corpus(str(folders / "b"), 16, vocab_size=512).vocab_size == 512


def test_a_sample_depends_on_seed_and_step_only(folders):
    corpus = load_corpus(f"{folders}/a=3,{folders}/b=1", 16)
    assert corpus.name == "a-b"
    whole = training_batch(corpus, 16, 10, 1, 5, 0, 10)
    pieces = [share(10, 4, rank) for rank in range(4)]
    parts = [training_batch(corpus, 16, 10, 1, 5, first, count) for first, count in pieces]
    for number in (0, 1):
        joined = np.concatenate([part[number] for part in parts])
        np.testing.assert_array_equal(joined, whole[number])
    for seed, step in ((1, 6), (2, 5)):
        assert not np.array_equal(training_batch(corpus, 16, 10, seed, step, 0, 10)[0], whole[0])
    assert Sampler(corpus, 16, 10, 1).epoch(100) > 1


def test_validation_takes_of_every_text_its_share(folders):
    corpus = load_corpus(f"{folders}/a=1,{folders}/b=3", 4)
    offsets = validation_offsets(corpus, 4, 20)
    assert np.bincount(corpus.validation.parts(offsets)).tolist() == [5, 15]
    assert len(set(offsets.tolist())) == 20
    assert len(windows(corpus.validation, offsets, 4)[0]) == 20
    each = [span.bytes_per_token for span in corpus.validation.spans]
    assert corpus.validation_bytes(offsets) == pytest.approx((each[0] + 3 * each[1]) / 4)
    every = validation_offsets(corpus, 4, 10**9)
    assert len(every) == sum((n - 1) // 4 for n in np.diff(corpus.validation.bases))


def test_documents_begin_with_the_end_of_the_one_before(folders):
    """So that their first tokens are predicted, too, and from nothing else."""
    folder = load_corpus(str(folders / "a"), 16).folders[0]
    spans = Spans([Span(folder, 10, folder.tokens - 10)])
    offsets = np.arange(0, len(spans) - 50, 37)
    ids, numbers = spans.rows(offsets, 50), spans.documents(offsets, 50)
    assert ids.shape == numbers.shape == (len(offsets), 50)
    begins = np.diff(numbers, axis=1) != 0
    assert begins.any()
    np.testing.assert_array_equal(begins, ids[:, 1:] == folder.end_of_text)


def test_text_becomes_tokens_in_the_cache(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source, tokenizer = str(folders / "a-text"), str(folders / "tokenizer.json")
    first = load_corpus(source, 16, tokenizer=tokenizer)
    assert first.folders[0].path.parent == tmp_path / "ringlet" / "text"
    found = ids_by_document(first.folders[0].path)
    assert found == ids_by_document(folders / "a")
    monkeypatch.setattr("ringlet.runtime.text.build._run", None)  # it is there
    assert load_corpus(source, 16, tokenizer=tokenizer).digest() == first.digest()


def test_the_built_in_text_becomes_tokens(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    topics = {name: words(90) for name in "abc"}
    monkeypatch.setattr("pydoc_data.topics.topics", topics)
    corpus = load_corpus("pydoc", 16, tokenizer=str(folders / "tokenizer.json"))
    assert (corpus.name, corpus.folders[0].documents) == ("pydoc", 3)


REFUSED = {
    "no such folder": ("{}/a=1,{}/none=1", {}, "there is no folder .*none"),
    "no weight": ("{}/a=1,{}/b=x", {}, "weights, as in a=3,b=1, '.*b=x' has a weight"),
    "weight 0": ("{}/a=1,{}/b=0", {}, "'.*b=0' has a weight that is no positive number"),
    "no name": ("{}/a=1,", {}, "'' has no name"),
    "a weight alone": ("{}/a,=3", {}, "'=3' has no name"),
    "twice": ("{0}/a=1,{0}/b,{0}/b/../a=2", {}, r"has .*b/\.\./a twice: give it one weight"),
    "text with a weight": ("{}/a-text=1,{}/a", {}, "there is no folder .*a-text that `ringlet da"),
    "two tokenizers": ("{}/a,{}/c", {}, "a and .*c were made by different tokenizers"),
    "a small vocabulary": ("{}/a", {"vocab_size": 280}, "the tokenizer of .*a has 300 ids, the"),
    "text without a tokenizer": ("{}/a-text", {}, "no data file .*a-text: it is a folder; make"),
    "tokens with a tokenizer": ("{}/a", {"tokenizer": "{}/tokenizer.json"}, "leave out --token"),
    "no tokenizer": ("{}/a-text", {"tokenizer": "{}/none.json"}, "none.json"),
    "a text as tokenizer": ("{}/a-text", {"tokenizer": "{}/a-text/0000.txt"}, "is not a token"),
    "too short": ("{}/a", {"block_size": 5000}, "too short"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_refused(folders, monkeypatch, tmp_path, case):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source, options, text = REFUSED[case]
    options = {k: v.format(folders) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(DataError, match=text):
        load_corpus(source.format(folders, folders), **{"block_size": 16, **options})


def test_one_text_cannot_be_packed():
    corpus = load_corpus("pydoc", 16)
    with pytest.raises(DataError, match="pack would do nothing: pydoc is one text"):
        packing(corpus, np.array([0]), 16, validation=False)


SIZES = {
    "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, "batch_size": 8, "steps": 6,
    "eval_every": 3, "eval_windows": 9, "checkpoint_every": 3, "warmup_steps": 2, "dropout": 0.1,
    "learning_rate_schedule": "constant",
}  # fmt: skip


def trained(world, **options):
    """The rows of a run, without what takes time."""
    _, rows = run_to_the_end(world, SIZES, **options)
    names = ("step", "loss", "val_loss", "bits_per_byte", "val_bits_per_byte", "epoch", "grad_norm")
    return [{name: row[name] for name in names if name in row} for row in rows]


def same(one, other, tolerance=1e-5):
    for left, right in zip(one, other, strict=True):
        assert left == pytest.approx(right, abs=tolerance)


def test_a_run_on_a_mixture_is_the_same_on_any_mesh_and_goes_on(ranks, folders, tmp_path):
    options = {"data": f"{folders}/a=3,{folders}/b=1", "pack": True}
    alone = ranks(1).run(trained, **options)[0]
    last = alone[-1]
    nats = last["bits_per_byte"] * np.log(2)
    assert last["loss"] / nats == pytest.approx(load_corpus(options["data"], 16).training_bytes)
    assert last["epoch"] == Sampler(load_corpus(options["data"], 16), 16, 8, 1337).epoch(6) > 0
    same(ranks(4).run(trained, mesh="pp=2,cp=2", accumulate=2, **options)[0], alone)
    options |= {"folder": str(tmp_path)}
    same(ranks(2).run(trained, steps=3, mesh="dp=2", zero=3, **options)[0], alone[:4])
    rest = ranks(2).run(trained, resume=True, mesh="tp=2", **options)[0]
    same(rest, alone[4:])
    assert [row["step"] for row in rest] == [4, 5, 6]
    apart = ranks(1).run(trained, data=options["data"], steps=1)[0]
    assert apart[0]["val_loss"] != pytest.approx(alone[0]["val_loss"], abs=1e-6)
