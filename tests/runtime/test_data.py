"""Corpora, batches and configs: what is read, what is refused, and how work is shared."""

import sys

import numpy as np
import pytest

from ringlet.runtime import ConfigError, DataError, load_corpus, make_config
from ringlet.runtime.mesh import share
from ringlet.runtime.training.config import PRESETS, resume_config
from ringlet.runtime.training.corpus import training_batch, validation_offsets, windows
from ringlet.runtime.training.fit import check_fit
from ringlet.runtime.training.tokenizers import token_bytes


def test_the_built_in_text_is_pythons_documentation():
    corpus = load_corpus("pydoc", 64)
    assert corpus.vocab_size == 256
    text = bytes(corpus.train[:200_000]).decode(errors="replace")
    assert 'The "if" statement' in text or "statement" in text
    assert len(corpus.train) > 8 * len(corpus.validation) > 100_000


@pytest.mark.parametrize(
    "content", [b"plain text " * 100, "grün 日本 ".encode() * 80, bytes(range(256)) * 4]
)
def test_any_file_is_its_bytes(tmp_path, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    corpus = load_corpus(str(path), 8)
    assert bytes(corpus.train) + bytes(corpus.validation) == content
    assert corpus.name == "text"
    assert corpus.as_bytes


def test_a_bin_file_holds_ids(tmp_path):
    ids = (np.arange(3000) % 700).astype("<u2")
    ids.tofile(tmp_path / "train.bin")
    corpus = load_corpus(str(tmp_path / "train.bin"), 8)
    assert corpus.vocab_size == 700
    assert not corpus.as_bytes
    np.testing.assert_array_equal(np.concatenate([corpus.train, corpus.validation]), ids)
    assert load_corpus(str(tmp_path / "train.bin"), 8, vocab_size=1024).vocab_size == 1024


BAD_DATA = {
    "missing": (None, "no data file"),
    "empty": (b"", "is empty"),
    "short": (b"abc" * 10, "too short"),
    "no room for validation": (b"x" * 80, "too short"),
    "odd.bin": (b"abc" * 1001, "odd number"),
    "ids.bin": (np.full(1000, 300, "<u2").tobytes(), "holds id 300"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_by_name(tmp_path, case):
    content, text = BAD_DATA[case]
    path = tmp_path / case
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=text) as refused:
        load_corpus(str(path), 64, vocab_size=300 if case == "ids.bin" else None)
    assert case in str(refused.value)


def test_a_python_without_its_documentation_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    monkeypatch.delitem(sys.modules, "pydoc_data.topics", raising=False)
    with pytest.raises(DataError, match=r"pydoc_data.*--data"):
        load_corpus("pydoc", 8)


def test_tokens_beyond_the_bytes_can_be_shown():
    assert b"".join(map(token_bytes, [65, 255, 256, 8191])) == b"A\xff" + "\ufffd\ufffd".encode()


def test_a_folder_is_no_data(tmp_path):
    with pytest.raises(DataError, match="no data file"):
        load_corpus(str(tmp_path), 8)


def test_batches_depend_on_seed_and_step_only():
    corpus = load_corpus("pydoc", 16)
    whole = training_batch(corpus, 16, 10, seed=1, step=5, first=0, count=10)
    parts = [
        training_batch(corpus, 16, 10, seed=1, step=5, first=first, count=count)
        for first, count in (share(10, 4, rank) for rank in range(4))
    ]
    for number in (0, 1):
        np.testing.assert_array_equal(
            np.concatenate([part[number] for part in parts]), whole[number]
        )
    ids, targets = whole
    assert ids.shape == targets.shape == (10, 16)
    np.testing.assert_array_equal(ids[:, 1:], targets[:, :-1])
    other = training_batch(corpus, 16, 10, seed=1, step=6, first=0, count=10)
    assert not np.array_equal(other[0], ids)


@pytest.mark.parametrize("total", [0, 1, 5, 10, 12])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_shares_cover_everything_once_and_are_even(total, size):
    parts = [share(total, size, rank) for rank in range(size)]
    assert [n for first, count in parts for n in range(first, first + count)] == list(range(total))
    counts = [count for _, count in parts]
    assert max(counts) - min(counts) <= 1


def test_validation_covers_the_text_side_by_side_or_evenly():
    corpus = load_corpus("pydoc", 64)
    every = validation_offsets(corpus, 64, 10**9)
    np.testing.assert_array_equal(every, np.arange(len(every)) * 64)
    assert every[-1] + 64 < len(corpus.validation) <= every[-1] + 2 * 64
    some = validation_offsets(corpus, 64, 10)
    assert len(some) == 10
    assert set(some) <= set(every)
    assert some[-1] > every[-1] * 0.85
    ids, targets = windows(corpus.validation, every[-1:], 64)
    assert ids.shape == targets.shape == (1, 64)


def test_the_last_window_can_be_drawn(tmp_path):
    path = tmp_path / "t"
    path.write_bytes(bytes(range(100)))
    corpus = load_corpus(str(path), 9)
    seen = {
        int(training_batch(corpus, 9, 50, seed=0, step=step, first=0, count=50)[1].max())
        for step in range(20)
    }
    assert max(seen) == 89  # the last token of the training part is a target


def test_precedence_is_defaults_preset_file_options(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('preset = "small"\nsteps = 7\nseed = 3\nlearning_rate = 1\n')
    config = make_config("nano", file, {"seed": 4, "dropout": None})
    assert (config.block_size, config.steps, config.seed) == (128, 7, 4)
    assert config.learning_rate == 1.0
    assert config.dropout == 0.0


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_possible(preset):
    assert make_config(preset).n_layer >= 2


BAD_CONFIG = {
    "preset": ('preset = "nanno"', "unknown preset 'nanno'.*nano"),
    "option": ("learning_rat = 1.0", "did you mean learning_rate"),
    "type": ('steps = "many"', "steps is 'many'.*int"),
    "float for int": ("steps = 2.5", "steps is 2.5"),
    "bool for int": ("steps = true", "steps is True"),
    "zero": ("steps = 0", "steps is 0.*at least 1"),
    "heads": ("n_embd = 100\nn_head = 3", "100 cannot be cut into n_head 3"),
    "model": ('model = "bert"', "unknown model 'bert'; there are gpt, llama"),
    "a llama's": ('model = "llama"\ndropout = 0.1', "dropout is 0.1.*0, or model gpt, would fit"),
    "a gpt's": ("n_kv_head = 2", "n_kv_head is 2.*0, or model llama, would fit"),
    "keys": ('model = "llama"\nn_kv_head = 3', "n_head 4 cannot share n_kv_head 3"),
    "optimizer": ('optimizer = "adams"', "unknown optimizer 'adams'.*muon"),
    "rates": ('learning_rate_schedule = "sine"', "learning_rate_schedule 'sine'; there are cosine"),
    "dropout": ("dropout = 1.0", "dropout is 1.0"),
    "negative": ("clip = -1.0", "clip is -1.0"),
    "nan": ("learning_rate = nan", "learning_rate is nan"),
    "infinite": ("learning_rate = inf", "learning_rate is inf"),
    "beta": ("beta2 = 1.0", "beta2 is 1.0"),
    "vocabulary": ("vocab_size = -1", "vocab_size is -1"),
    "no toml": ("steps 3", "not TOML"),
    "not UTF-8": ("steps = '\udcff'", "not TOML"),
    "too large": (f"seed = 0x{'f' * 5000}", "seed is a very long int, a number that is too large"),
    "a very large number of another type": (f"data = 0x{'f' * 5000}", "data is a very long int"),
    "too small": (f"seed = -{1 << 64}", "seed is -18446744073709551616, a number that"),
    "much nesting": ("seed." + "a." * 5000 + "b = 1", "seed is a very long dict"),
    "a preset that is a list": ("preset = []", r"unknown preset \[\]"),
}


@pytest.mark.parametrize("case", BAD_CONFIG)
def test_a_bad_config_names_the_option(tmp_path, case):
    text, message = BAD_CONFIG[case]
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=message):
        make_config(file=file)


def test_what_may_change_when_a_run_goes_on(tmp_path):
    from dataclasses import asdict

    saved = asdict(make_config("tiny", options={"batch_size": 6, "steps": 5}))
    config = resume_config(saved, "tiny", options={"steps": 9, "learning_rate": 0.5})
    assert (config.steps, config.learning_rate, config.batch_size) == (9, 0.5, 6)
    file = tmp_path / "c.toml"
    for text, name in (
        ('preset = "small"', "block_size"), ("n_layer = 9", "n_layer"),
        ('optimizer = "sgd"', "optimizer"), ("momentum = 0.5", "momentum"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"{name}.*cannot change"):
            resume_config(saved, file=file)
    with pytest.raises(ConfigError, match="unknown preset 'huge'"):
        resume_config(saved, "huge")


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        make_config(file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("workers", "accumulate", "fits"),
    [(12, 1, True), (13, 1, False), (4, 3, True), (5, 3, False), (0, 1, False)],
)
def test_a_batch_has_to_be_large_enough_for_its_workers(workers, accumulate, fits):
    config = make_config(options={"accumulate": accumulate})
    if fits:
        check_fit(config, workers)
    else:
        with pytest.raises(ConfigError, match="workers"):
            check_fit(config, workers)
