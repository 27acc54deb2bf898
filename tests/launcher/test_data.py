"""`ringlet data` and training on what it makes, as people type it."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
from full_disk import largest_file
from texts import make_tokenizer, words, written

from ringlet.launcher.cli import main

pytest.importorskip("tokenizers")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working folder, with texts and a tokenizer."""
    monkeypatch.chdir(tmp_path)
    make_tokenizer(tmp_path)
    written(tmp_path / "texts", [words(300, n) for n in range(9)])
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes("né é".encode("latin-1"))
    Path("picture.png").write_bytes(b"\x89PNG\0")
    Path("rows.jsonl").write_text('{"id": 1, "body": "one"}\n{"id": 2, "body": "two"}\n')
    Path("wrong.jsonl").write_text('{"text": "one"}\n{"text": 3}\n[1]\n')
    Path("broken.jsonl").write_text('{"text": "one"\n')
    Path("table.csv").write_text("id,body\n1,one\n2\n")
    Path("open.csv").write_text('text\n"' + "x" * 100)
    Path("cut.txt.gz").write_bytes(b"no gzip at all")
    Path("cut.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd no zstd")
    Path("taken").mkdir()
    Path("taken/notes").touch()
    for name, vocab in (("words", {"a": 0}), ("unknown", {"</s>": 0, "?": 1, "the": 2})):
        Path(f"{name}.json").write_text(json.dumps({
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
            "decoder": None, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"},
        }))  # fmt: skip
    return tmp_path


def ringlet(capsys, *words):
    """A command in this process: its exit code, and what it wrote."""
    code = 0
    try:
        main(list(map(str, words)))
    except SystemExit as ended:
        code = ended.code or 0
    return code, *capsys.readouterr()


def test_a_folder_is_built_shown_and_refused_when_it_was_changed(place, capsys, monkeypatch):
    Path("latin.txt").rename("red\x1b[31m.txt")
    code, out, error = ringlet(
        capsys, "data", "build", "red\x1b[31m.txt", "texts", "empty.txt", "rows.jsonl",
        "--column", "body", "--tokenizer", "tokenizer.json", "--out", "o",
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert re.search(r"o: 12 documents, \d+ bytes of text, [\d,]+ tokens of \d\.\d\d bytes;", out)
    assert "1 empty document left out; 2 characters replaced, as they were not UTF-8" in out
    assert "train --data o" in out
    assert sorted(path.name for path in Path("o").iterdir()) == [
        "document-bytes.bin", "documents.bin", "manifest.json", "shard-00000.bin", "tokenizer.json",
    ]  # fmt: skip
    code, out, error = ringlet(capsys, "data", "show", "o")
    assert (code, error) == (0, "")
    assert "<|endoftext|> (0) ends a document" in out
    assert "1 shard, uint16; all checksums are right" in out
    assert out.count("document ") >= 5
    assert r"sources: 'red\x1b[31m.txt', texts/" in out
    assert repr(words(300, 1)[:20])[1:-1] in out
    shard = Path("o/shard-00000.bin")
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    for command in (["data", "show", "o"], ["train", "--data", "o", "--preset", "tiny"]):
        code, out, error = ringlet(capsys, *command)
        assert (code, len(error.splitlines())) == (2, 1)
        assert "o/shard-00000.bin was changed after it was built" in error


def test_a_tokenizer_is_learned_and_standard_input_read(place, capsys, monkeypatch):
    build = ("data", "build", "texts", "--train-tokenizer", "290", "--out", "o")
    code, out, error = ringlet(capsys, *build)
    assert (code, error, "9 documents" in out) == (0, "", True)
    code, out, error = ringlet(capsys, *build)  # it is there already
    assert (code, error, "9 documents" in out) == (0, "", True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n--\ntwo")))
    code, out, error = ringlet(
        capsys, "data", "build", "-", "--separator", r"\n--\n", "--tokenizer", "o", "--out", "p",
        "--threads", "1",
    )  # fmt: skip
    assert (code, error, "2 documents" in out) == (0, "", True)


BAD = {
    "no tokenizer": ("texts", "give one of --tokenizer FILE and --train-tokenizer TOKENS"),
    "two": ("texts --tokenizer tokenizer.json --train-tokenizer 300", "give one of --tokenizer"),
    "no text": ("none.txt --tokenizer tokenizer.json", "there is no file or folder none.txt"),
    "a pattern": ("none*.txt --tokenizer tokenizer.json", "there is no file or folder none*.txt"),
    "no such tokenizer": ("texts --tokenizer none.json", "none.json"),
    "not a tokenizer": ("texts --tokenizer rows.jsonl", "rows.jsonl is not a tokenizer"),
    "no end": ("texts --tokenizer words.json", "does not say which token ends a text"),
    "another end": ("texts --tokenizer tokenizer.json --end-of-text x!", "has no token x!"),
    "a tokenizer that does not fit": (
        "texts --tokenizer words.json --end-of-text a", "words.json makes no ids of the text",
    ),
    "a tokenizer of other text": (
        "texts --tokenizer unknown.json", "does not fit the text: ",
    ),
    "small": ("texts --train-tokenizer 256", "a tokenizer of 256 tokens has no room"),
    "empty": ("empty.txt --tokenizer tokenizer.json", "no text in empty.txt: all documents are e"),
    "column": ("rows.jsonl --tokenizer tokenizer.json", "line 1 has no column 'text'; it has 'id'"),
    "csv column": ("table.csv --tokenizer tokenizer.json", "first row has no column 'text'"),
    "short row": (
        "table.csv --column body --tokenizer tokenizer.json", "ends in line 3 has no column 'body'",
    ),
    "a quote that does not end": ("open.csv --tokenizer tokenizer.json", "open.csv is not CSV"),
    "no text in a column": ("wrong.jsonl --tokenizer tokenizer.json", "line 2 has 3 in 'text'"),
    "no json": ("broken.jsonl --tokenizer tokenizer.json", "broken.jsonl: line 1 is not JSON"),
    "no object": ("wrong.jsonl --column id --tokenizer tokenizer.json", "no column 'id'"),
    "learned from what is wrong": ("broken.jsonl --train-tokenizer 300", "line 1 is not JSON"),
    "no gzip": ("cut.txt.gz --tokenizer tokenizer.json", "cut.txt.gz is damaged, or not"),
    "no zstd": ("cut.txt.zst --tokenizer tokenizer.json", "cut.txt.zst"),
    "format": ("texts --tokenizer tokenizer.json --format xml", "--format is 'xml'; there are"),
    "separator": (
        "rows.jsonl --separator x --tokenizer tokenizer.json", "--separator would do nothing",
    ),
    "formats by name": (
        "rows.jsonl --format csv --tokenizer tokenizer.json", "--format would do nothing",
    ),
    "tokens": ("made --tokenizer tokenizer.json", "made holds tokens already, not text"),
    "no columns": ("texts --column x --tokenizer tokenizer.json", "--column would do nothing"),
    "read twice": ("- --train-tokenizer 300", "standard input can be read only once"),
    "pictures": ("pictures --tokenizer tokenizer.json", "there is no text in the folder pictures"),
    "threads": ("texts --tokenizer tokenizer.json --threads 0", "--threads"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(place, capsys, case):
    words, text = BAD[case]
    Path("pictures").mkdir()
    Path("made").mkdir()
    Path("made/document-bytes.bin").touch()
    Path("picture.png").rename("pictures/picture.png")
    code, out, error = ringlet(capsys, "data", "build", *words.split(), "--out", "o")
    assert (code, out) == (2, "")
    assert text in error
    assert len(error.splitlines()) == 1 or case == "threads"


def test_what_cannot_be_written_or_read_gets_one_line(place, capsys, monkeypatch):
    build = ("data", "build", "texts", "--tokenizer", "tokenizer.json", "--out")
    for out, text in (("taken", "taken holds other files (notes)"), ("empty.txt", "is a file")):
        code, _, error = ringlet(capsys, *build, out)
        assert (code, text in error, len(error.splitlines())) == (2, True, 1)
    with largest_file(2000):
        code, _, error = ringlet(capsys, *build, "o")
    assert (code, "cannot write o/" in error, len(error.splitlines())) == (2, True, 1)
    code, _, error = ringlet(capsys, "data", "show", "o")
    assert (code, "o is not complete" in error) == (2, True)
    code, _, error = ringlet(capsys, "data", "show", "texts")
    assert (code, "texts/manifest.json does not exist" in error) == (2, True)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    code, _, error = ringlet(capsys, *build, "p")
    assert (code, "pip install 'ringlet[tokenizers]'" in error) == (2, True)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(Exception, match=r"pip install 'ringlet\[zstd\]'"):
        from ringlet.runtime.text.zstd import open_zstd

        open_zstd(io.BytesIO(), "x.zst")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--data texts", "make tokens of it with `ringlet data build`, or give --tokenizer"),
        ("--data pydoc --pack", "pack would do nothing: pydoc is one text"),
        ("--data texts --tokenizer rows.jsonl", "rows.jsonl is not a tokenizer"),
        ("--data texts --tokenizer tokenizer.json --vocab-size 270", "has 300 ids, the vocabulary"),
        ("--data - --tokenizer tokenizer.json", "standard input can be read only once"),
        ("--data texts --tokenizer tokenizer.json --out m", "m holds tokenizer.json already"),
        ("--resume-if-saved --out m", "m holds tokenizer.json already: choose another --out"),
        ("--resume-if-saved --out hf", "hf holds config.json already: choose another --out"),
    ],
)
def test_training_refuses_what_does_not_fit(place, monkeypatch, capsys, words, text):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    for name in ("m/tokenizer.json", "hf/config.json"):
        Path(name).parent.mkdir()
        Path(name).touch()
    code, out, error = ringlet(capsys, "train", *words.split(), "--preset", "tiny")
    assert (code, out) == (2, "")
    assert text in error
    assert len(error.splitlines()) == 1
