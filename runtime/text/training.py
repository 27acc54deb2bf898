"""A new tokenizer: byte-level byte-pair encoding, as GPT-2's (Radford et al., 2019; Sennrich,
Haddow and Birch, "Neural machine translation of rare words with subword units", 2016)."""

from collections.abc import Iterator
from pathlib import Path

from ringlet.nn.files import replacing
from ringlet.runtime.text.encoder import library_of, refusals
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.output import writing

END = "<|endoftext|>"

LEAST = 257
"""A token for each byte, and the end of text."""

LEARNED_FROM = 1 << 30
"""Characters, the first ones, from which a tokenizer is learned at most."""


def train_tokenizer(texts: Iterator[str], size: int, path: Path) -> None:
    """Learn a tokenizer of up to `size` tokens, and write it to a tokenizer.json. Raises TextError.

    Without enough different text there are fewer tokens.
    """
    if size < LEAST:
        raise TextError(f"a tokenizer of {size} tokens has no room for the bytes: {LEAST} at least")
    library = library_of("--train-tokenizer")
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    stopped: list[TextError] = []
    try:
        made.train_from_iterator(_first(texts, stopped), trainer)
    except BaseException as error:
        raise (stopped[0] if stopped else error) from None
    if stopped:
        raise stopped[0]
    with writing(path), refusals(f"cannot write {path}"), replacing(path) as part:
        made.save(str(part))


def _first(texts: Iterator[str], stopped: list[TextError]) -> Iterator[str]:
    """The first texts; what is wrong with them goes to `stopped`, as the library would pack it into
    an error of its own."""
    left = LEARNED_FROM
    try:
        for text in texts:
            yield text
            left -= len(text)
            if left <= 0:
                return
    except TextError as error:
        stopped.append(error)
        raise
