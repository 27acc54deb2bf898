"""Text, tokenizers and folders of tokens for tests."""

import itertools

from ringlet.runtime.text.build import Request, build
from ringlet.runtime.text.folder import TextFolder
from ringlet.runtime.text.sources import Form, find_sources
from ringlet.runtime.text.training import train_tokenizer

WORDS = [
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "zwölf", "jagen",
    "Boxkämpfer", "日本語", "don't", "1,234.5", "def", "f(x):\n", "", "", "return",
    "x\n\n\t\u2615", "end.",
]  # fmt: skip


def words(count, seed=1):
    """A text of so many words, some of them on lines of their own."""
    numbers = (seed * 7919 * (n + 1) ** 2 // 31 for n in range(count))
    return " ".join(WORDS[n % len(WORDS)] + "\n" * (n % 11 == 3) for n in numbers)


def make_tokenizer(folder, size=300):
    """A tokenizer.json of about so many tokens."""
    path = folder / "tokenizer.json"
    train_tokenizer(iter([words(2000)]), size, path)
    return path


def built(folder, sources, tokenizer, **options):
    """A folder of tokens of these sources: names of files, or texts to be written into files."""
    form = Form(**{name: options.pop(name) for name in list(options) if name in vars(Form())})
    found, _ = find_sources(map(str, sources), form)
    return build(folder, Request(found, form, tokenizer, **options))


def written(folder, texts):
    """Files with these texts."""
    folder.mkdir(exist_ok=True)
    for number, text in zip(itertools.count(), texts):
        (folder / f"{number:04d}.txt").write_text(text, encoding="utf-8")
    return folder


def ids_by_document(folder):
    """All documents' ids of a folder of tokens, as lists."""
    found = TextFolder(folder)
    return [found.take(*found.document(n)).tolist() for n in range(found.documents)]


def contents(folder):
    """The bytes of all files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
