"""Beam search against looking at every continuation there is."""

import itertools

import numpy as np
import pytest

from ringlet.nn.models import BERT, GPT, BERTConfig, GPTConfig, beam_search, generate

IDS = np.array([[1, 2], [4, 0]])
NEW, VOCABULARY = 3, 5


@pytest.fixture(scope="module")
def model():
    """A model far from its even start."""
    model = GPT(GPTConfig(VOCABULARY, 10, 2, 2, 8))
    for number, parameter in enumerate(model.parameters()):
        noise = np.random.default_rng(number).standard_normal(parameter.shape)
        parameter.data += (0.4 * noise).astype(np.float32)
    return model.eval()


def score(model, prompt, continuation, penalty):
    """The sum of its tokens' log-probabilities over its length to the power of the penalty."""
    ids = np.concatenate([prompt, continuation])[None]
    logits = model(ids).data[0].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = range(len(prompt), ids.shape[1])
    total = sum(log_p[place - 1, ids[0, place]] for place in places)
    return total / len(continuation) ** penalty


def ends_of(eos):
    return eos if isinstance(eos, list) else [eos]


def best(model, prompt, penalty, eos):
    """Of all continuations that end with eos, or do not end in NEW tokens."""
    all_of_them = set()
    for tokens in itertools.product(range(VOCABULARY), repeat=NEW):
        end = next((n + 1 for n, token in enumerate(tokens) if token in ends_of(eos)), NEW)
        all_of_them.add(tokens[:end])
    return max(sorted(all_of_them), key=lambda each: score(model, prompt, each, penalty))


@pytest.mark.parametrize("eos", [None, 3, [3, 0], []])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_with_beams_for_all_it_finds_the_best(model, penalty, eos):
    how = {"beams": VOCABULARY**NEW, "length_penalty": penalty, "eos": eos}
    found = beam_search(model, IDS, NEW, **how)
    for row, prompt in zip(found, IDS, strict=True):
        expected = best(model, prompt, penalty, eos)
        new = row[2:].tolist()
        assert new[: len(expected)] == list(expected)
        assert set(new[len(expected) :]) <= set(ends_of(eos)[:1] or [0])  # filled up to the longest


def test_more_beams_find_what_is_no_less_likely(model):
    scores = [
        [score(model, prompt, row[2:], 1.0) for row, prompt in zip(found, IDS, strict=True)]
        for beams in (1, 3, VOCABULARY**NEW)
        for found in [beam_search(model, IDS, NEW, beams=beams)]
    ]
    assert (np.array(scores) <= np.array(scores[-1]) + 1e-5).all()
    greedy = generate(model, IDS, NEW, temperature=0)
    np.testing.assert_array_equal(beam_search(model, IDS, NEW, beams=1), greedy)


def test_rows_end_with_eos(model):
    greedy = generate(model, IDS, 7, temperature=0)
    for eos in (int(greedy[0, 3]), [int(greedy[0, 3]), int(greedy[1, 4])], {int(greedy[0, 4])}):
        ended = generate(model, IDS, 7, temperature=0, eos=eos)
        ends = {eos} if isinstance(eos, int) else set(eos)
        for row, whole in zip(ended[:, 2:].tolist(), greedy[:, 2:].tolist(), strict=True):
            end = next((n + 1 for n, token in enumerate(whole) if token in ends), len(whole))
            assert row[:end] == whole[:end][: len(row)]
            assert set(row[end:]) <= {row[end - 1]}  # it repeats its own


def test_impossible_wishes_are_refused(model):
    with pytest.raises(ValueError, match="beams is 0"):
        beam_search(model, IDS, 2, beams=0)
    with pytest.raises(ValueError, match="batch of rows"):
        beam_search(model, IDS[0], 2)
    bert = BERT(BERTConfig(7, 8, 1, 2, 8))
    with pytest.raises(TypeError, match="does not generate"):
        generate(bert, IDS, 2)
