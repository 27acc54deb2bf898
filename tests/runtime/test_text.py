"""Text as tokens: what is read, that ids are the tokenizer's, and that interruptions leave no
trace."""

import codecs
import errno
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from full_disk import largest_file
from texts import built, contents, ids_by_document, make_tokenizer, words, written

from ringlet.runtime.checkpoint.manifest import digest
from ringlet.runtime.text import pieces as pieces_module
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import MANIFEST, TextFolder
from ringlet.runtime.text.sources import Form, Tally, find_sources, read

tokenizers = pytest.importorskip("tokenizers")
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def llama(folder):
    """A tokenizer as Llama 2's: a text begins with <s> and a space, and cannot be cut."""
    normalizers, processors = tokenizers.normalizers, tokenizers.processors
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{n:02X}>": n + 3 for n in range(256)}
    vocab |= {letter: 259 + n for n, letter in enumerate("\u2581abcdeth")}
    vocab |= {"th": 267, "the": 268, "\u2581the": 269}
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the")]
    model = tokenizers.models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True)
    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made.enable_truncation(7)
    made.enable_padding(length=9)
    made.save(str(folder / "llama.json"))
    return folder / "llama.json"


DOCUMENTS = [
    "a", "\n", "plain words", words(300), words(4000, 2), f"one{END}two", "x" * 2000,
    "\u2615" * 400, "a b\n" * 900, "zwölf\r\nBoxkämpfer " * 99,
]  # fmt: skip


@pytest.mark.parametrize("kind", ["byte level", "llama"])
def test_ids_are_the_tokenizers_one_document_at_a_time(tmp_path, tokenizer, monkeypatch, kind):
    monkeypatch.setattr(pieces_module, "LONG", 256)
    path = tokenizer if kind == "byte level" else llama(tmp_path)
    alone = tokenizers.Tokenizer.from_file(str(path))
    alone.no_truncation()
    alone.no_padding()
    end = alone.token_to_id(END if kind == "byte level" else "</s>")
    made = built(tmp_path / "o", [written(tmp_path / "in", DOCUMENTS)], path, shard_tokens=1000)
    assert ids_by_document(made.path) == [[*alone.encode(text).ids, end] for text in DOCUMENTS]
    assert made.manifest["bytes"] == sum(len(text.encode()) for text in DOCUMENTS)
    assert made.tokens == made.document(made.documents - 1)[1]
    assert len([name for name in made.manifest["files"] if name.startswith("shard")]) > 2
    assert made.bytes_until(made.document(3)[1]) == sum(len(x.encode()) for x in DOCUMENTS[:4])


@pytest.mark.parametrize(("size", "dtype"), [(1 << 16, "<u2"), ((1 << 16) + 1, "<u4")])
def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path, size, dtype):
    vocab = {"w0": 0, "w1": 1, "last": size - 2, END: size - 1}  # with a gap
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "t.json"))
    folder = built(tmp_path / "o", [written(tmp_path / "in", ["w1 last"])], tmp_path / "t.json")
    assert (folder.manifest["dtype"], folder.vocab_size) == (dtype, size)
    assert folder.take(0, 3).tolist() == [1, size - 2, size - 1]


def zstd(data):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


TEXTS = ["first\nlines", "zweiter \u00b7 Text", 'third, with "quotes"']
ROWS = "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(TEXTS)).encode()
TABLE = 'id,text\n1,"first\nlines"\n\n2,zweiter \u00b7 Text\n3,"third, with ""quotes"""\n'.encode()
FILES = {
    "jsonl": ("a.jsonl", ROWS),
    "ndjson, a blank line": ("a.NDJSON", ROWS.replace(b"\n", b"\n\n")),
    "csv": ("a.csv", TABLE),
    "csv with a mark": ("a.csv", codecs.BOM_UTF8 + TABLE),
    "tsv": ("a.tsv", TABLE.replace(b"1,", b"1\t").replace(b"2,", b"2\t").replace(b"id,", b"id\t")
            .replace(b"3,", b"3\t")),
    "gzip": ("a.jsonl.gz", gzip.compress(ROWS)),
    "gzip twice": ("a.jsonl.gz", gzip.compress(ROWS[:50]) + gzip.compress(ROWS[50:])),
    "zstd": ("a.csv.zst", lambda: zstd(TABLE)),
    "zstd twice": ("a.csv.zst", lambda: zstd(TABLE[:40]) + zstd(TABLE[40:])),
}  # fmt: skip


def documents(names, **form):
    """All documents of some sources, and what was noticed."""
    form, tally, found = Form(**form), Tally(), [""]
    sources, left_out = find_sources(map(str, names), form)
    for source in sources:
        for part in read(source, form, tally):
            if part is None:
                found.append("")
            else:
                found[-1] += part
    return found[:-1], tally, left_out


@pytest.mark.parametrize("case", FILES)
def test_rows_are_documents(tmp_path, case):
    name, data = FILES[case]
    (tmp_path / name).write_bytes(data() if callable(data) else data)
    assert documents([tmp_path / name])[0] == TEXTS


def test_files_folders_patterns_and_separators(tmp_path, monkeypatch):
    for name in ("b.txt", "a.md", "sub/c.txt", ".hidden", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "many.tar.gz").write_bytes(gzip.compress(b"name" + bytes(600)))
    found, tally, left_out = documents([tmp_path])
    assert found == ["a.md", "b.txt", "sub/c.txt"]
    assert left_out == [str(tmp_path / "many.tar.gz"), str(tmp_path / "picture.png")]
    assert tally.read == sum(map(len, found))
    assert documents([tmp_path / "sub", f"{tmp_path}/*.txt", tmp_path / "b.txt"])[0] == [
        "sub/c.txt", "b.txt",
    ]  # fmt: skip
    assert documents([f"{tmp_path}/**/*.txt"])[0] == ["b.txt", "sub/c.txt"]
    assert documents([tmp_path / "b.txt", f"{tmp_path}/sub/../b.txt"])[0] == ["b.txt"]
    with monkeypatch.context() as patched, pytest.raises(TextError, match=r"cannot read .*/sub: P"):
        patched.setattr(os, "scandir", forbidden(os.scandir, "sub"))
        documents([tmp_path])
    monkeypatch.setattr("ringlet.runtime.text.sources.CHUNK", 5)
    (tmp_path / "many").write_text("one--two----three--")
    assert documents([tmp_path / "many"], separator="--")[0] == ["one", "two", "", "three", ""]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ROWS)))
    assert documents(["-"], kind="jsonl")[0] == TEXTS


def forbidden(scandir, name):
    def scan(path):
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    return scan


ENCODED = {
    "utf-8 with a mark": (codecs.BOM_UTF8 + "é".encode(), "é", 0),
    "utf-16": ("né日".encode("utf-16"), "né日", 0),
    "utf-32": ("né日".encode("utf-32"), "né日", 0),
    "big utf-32": (codecs.BOM_UTF32_BE + "né日".encode("utf-32-be"), "né日", 0),
    "latin-1": ("né!é".encode("latin-1"), "n\ufffd!\ufffd", 2),
    "a character that is there": ("\ufffd".encode(), "\ufffd", 0),
    "cut off": ("日".encode()[:2], "\ufffd", 1),
}


@pytest.mark.parametrize("case", ENCODED)
@pytest.mark.parametrize("chunk", [1, 1 << 18])
def test_what_is_not_utf_8_is_replaced_and_counted(tmp_path, monkeypatch, case, chunk):
    monkeypatch.setattr("ringlet.runtime.text.sources.CHUNK", max(chunk, 4))
    data, text, count = ENCODED[case]
    (tmp_path / "f").write_bytes(data)
    found, tally, _ = documents([tmp_path / "f"])
    assert (found, tally.replaced) == ([text], count)


def test_halves_of_characters_in_json_are_replaced(tmp_path):
    (tmp_path / "f.jsonl").write_text('{"text": "a\\ud800b"}\n')
    found, tally, _ = documents([tmp_path / "f.jsonl"])
    assert (found, tally.replaced) == (["a\ufffdb"], 1)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from texts import built
from ringlet.runtime.text import build, output

build.LONG = 300
sync = output.os.fsync
left = 0

def killing(descriptor):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)

for moment in {moments!r}:
    if not os.fork():
        left, output.os.fsync = moment, killing
        built(Path("o"), ["in"], Path({tokenizer!r}), shard_tokens=2000, every=3000)
        os._exit(0)
    assert os.wait()[1] == signal.SIGKILL, moment
"""


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(tmp_path, tokenizer, monkeypatch):
    """In the middle of recording, of a shard's end, and of the manifest."""
    monkeypatch.chdir(tmp_path)
    texts = [words(400, n) for n in range(8)]
    written(tmp_path / "in", texts)
    whole = built(tmp_path / "w", ["in"], tokenizer, shard_tokens=2000, every=3000)
    script = KILLED.format(path=sys.path[:], moments=[4, 9, 23], tokenizer=str(tokenizer))
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=60, check=True)
    assert not (tmp_path / "o" / MANIFEST).exists()
    with pytest.raises(TextError, match="o is not complete"):
        TextFolder(tmp_path / "o")
    made = built(Path("o"), ["in"], tokenizer, shard_tokens=2000, every=3000)
    assert contents(made.path) == contents(whole.path)
    assert built(Path("o"), ["in"], tokenizer, shard_tokens=2000).digest == made.digest


RANDOMLY = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from texts import built
small = dict(every=100_000, shard_tokens=77_777)
built(Path(sys.argv[1]), ["a.txt", "b.jsonl.gz"], None, train=400, **small)
"""


@pytest.mark.slow
def test_a_build_that_is_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path):
    """Twenty moments, in a large text in two kinds of files, from learning the tokenizer on."""
    chance = random.Random(7)
    text = "".join(words(500, n) + "\n" for n in range(40))
    (tmp_path / "a.txt").write_text(text * 60, encoding="utf-8")
    rows = (json.dumps({"text": words(chance.randrange(400), n)}) + "\n" for n in range(4000))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", 1) as file:
        file.writelines(rows)
    command = [sys.executable, "-c", RANDOMLY.format(path=sys.path[:])]
    started = time.monotonic()
    subprocess.run([*command, "whole"], cwd=tmp_path, check=True, timeout=300)
    seconds, killed, resumed = time.monotonic() - started, 0, 0
    while killed < 20:
        process = subprocess.Popen([*command, "o"], cwd=tmp_path)
        try:
            process.wait(chance.uniform(0.1, seconds / 2))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
            resumed += (tmp_path / "o" / "progress.json").exists()
        process.wait()
        if (tmp_path / "o" / MANIFEST).exists():
            subprocess.run([*command, "o"], cwd=tmp_path, check=True, timeout=300)
            assert contents(tmp_path / "o") == contents(tmp_path / "whole")
            shutil.rmtree(tmp_path / "o")
    subprocess.run([*command, "o"], cwd=tmp_path, check=True, timeout=300)
    assert contents(tmp_path / "o") == contents(tmp_path / "whole")
    assert resumed > 5


def test_a_full_disk_is_named_and_the_build_goes_on(tmp_path, tokenizer):
    source = written(tmp_path / "in", [words(900, n) for n in range(5)])
    whole = built(tmp_path / "w", [source], tokenizer)
    room = (tmp_path / "w" / "shard-00000.bin").stat().st_size // 2
    room = max(room, tokenizer.stat().st_size)
    with (
        largest_file(room),
        pytest.raises(TextError, match=r"cannot write .*shard-00000.bin: File"),
    ):
        built(tmp_path / "o", [source], tokenizer, every=1000)
    assert contents(built(tmp_path / "o", [source], tokenizer, every=1000).path) == contents(
        whole.path
    )


def changed_text(folder, source, tokenizer):
    (source / "0001.txt").write_text("something else")


REFUSED = {
    "other text": (changed_text, r"of which the sources \(.*0001.txt\) were other ones"),
    "another tokenizer": (lambda f, s, t: make_tokenizer(t.parent, 280), "the tokenizer were"),
    "a shorter shard": (
        lambda f, s, t: (f / "shard-00000.bin").write_bytes(b""), "shard-00000.bin was changed",
    ),
    "a damaged record": (
        lambda f, s, t: (f / "progress.json").write_text("{}"), "progress.json is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_another_build_is_not_gone_on_with(tmp_path, monkeypatch, case):
    change, text = REFUSED[case]
    tokenizer = make_tokenizer(tmp_path)
    source = written(tmp_path / "in", [words(900, n) for n in range(3)])
    with monkeypatch.context() as patched, pytest.raises(TextError, match="stopped"):
        patched.setattr("ringlet.runtime.text.build._finish", stopped)
        built(tmp_path / "o", [source], tokenizer, every=1000)
    change(tmp_path / "o", source, tokenizer)
    with pytest.raises(TextError, match=text):
        built(tmp_path / "o", [source], tokenizer, every=1000)


def stopped(*arguments):
    raise TextError("stopped")


def test_a_changed_file_is_noticed(tmp_path, tokenizer):
    made = built(tmp_path / "o", [written(tmp_path / "in", DOCUMENTS)], tokenizer)
    made.verify()
    shard = tmp_path / "o" / "shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    with pytest.raises(TextError, match=r"shard-00000.bin was changed .*: its check"):
        TextFolder(tmp_path / "o").verify()
    shard.write_bytes(data[:-2])
    with pytest.raises(TextError, match=r"shard-00000.bin was changed .* it has [\d,]+ bytes, not"):
        TextFolder(tmp_path / "o")
    shard.unlink()
    with pytest.raises(TextError, match=r"shard-00000.bin cannot be read: No such file"):
        TextFolder(tmp_path / "o")


FORGED = {
    "documents in no order": ("documents.bin", lambda x: x[[1, 0, *range(2, len(x))]], "in order"),
    "a document before the first": ("documents.bin", lambda x: np.r_[-1, x[1:]], "in order"),
    "bytes in no order": ("document-bytes.bin", lambda x: x[[1, 0, *range(2, len(x))]], "in order"),
    "ids of no token": ("shard-00000.bin", lambda x: x + 40_000, "ids beyond its 300"),
    "documents that end early": ("documents.bin", lambda x: x - 1, "do not end where its text"),
    "bytes that end early": ("document-bytes.bin", lambda x: x * 0, "do not end where its text"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_what_has_checksums_must_fit_too(tmp_path, tokenizer, case):
    name, change, text = FORGED[case]
    made = built(tmp_path / "o", [written(tmp_path / "in", DOCUMENTS)], tokenizer)
    path, manifest = made.path / name, json.loads((made.path / "manifest.json").read_text())
    kind = manifest["dtype"] if name.startswith("shard") else "<i8"
    path.write_bytes(change(np.fromfile(path, kind)).astype(kind).tobytes())
    manifest["files"][name] = digest(path)
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TextError, match=text):
        TextFolder(made.path).verify()


def test_tokens_are_read_across_shards(tmp_path, tokenizer):
    texts = [words(n % 40, n) + "." for n in range(70)]
    source = written(tmp_path / "in", texts)
    one = built(tmp_path / "one", [source], tokenizer)
    many = built(tmp_path / "many", [source], tokenizer, shard_tokens=97)
    for start in range(0, one.tokens - 400, 31):
        for length in (0, 1, 97, 300):
            np.testing.assert_array_equal(
                many.take(start, start + length), one.take(start, start + length)
            )
    numbers = many.documents_of(np.arange(many.tokens))
    for number in range(many.documents):
        first, stop = many.document(number)
        assert set(numbers[first:stop].tolist()) == {number}
        assert many.take(stop - 1, stop)[0] == many.end_of_text
