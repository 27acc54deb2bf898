"""The helper that runs the code blocks of pages (tests/support/printed_blocks.py)."""

import pytest
from printed_blocks import blocks, differences, failures, has_quick, has_slow

RIGHT = """
A file, commands with and without output, and Python in parts:

```python
# three.py
print(3)
```

```console
$ python three.py
3
$ ls \\
    three.py
three.py
```

<!-- exit: 2 -->
```console
$ ringlet simulate \\
    --model none
ringlet: there is no model ...
```

<!-- given
x = 2
-->
```python
y = x + 1
print(y)
```

```text
3
```

```sh
test -f three.py   # a comment
```

<!-- not run: needs a GPU -->
```sh
no-such-command
```

```toml
x = "not run"
```
"""

WRONG = {
    "```console\n$ echo 1\n2\n```\n": "-2",
    "```sh\nfalse\n```\n": "ended with code 1",
    "```python\nprint(1)\n```\n": "+1",
    "```python\nprint(1)\n```\n\n```text\n2\n```\n": "-2",
    "```python\n\n1 / 0\n```\n": "line 3",
    "<!-- not run: no time -->\n```sh\nfalse\n```\n": "'no time' is none of",
}


@pytest.fixture
def page(tmp_path_factory):
    """A page with this text."""

    def make(text):
        path = tmp_path_factory.mktemp("page") / "page.md"
        path.write_text(text)
        return path

    return make


def test_a_page_that_is_right(page, tmp_path, capfd):
    assert failures(page(RIGHT), tmp_path, capfd) == []
    assert has_quick(page(RIGHT))
    assert not has_slow(page(RIGHT))


@pytest.mark.parametrize("text", WRONG, ids=WRONG.values())
def test_what_is_wrong_is_said(text, page, tmp_path, capfd):
    (said,) = failures(page(text), tmp_path, capfd)
    assert "page.md:" in said
    assert WRONG[text] in said


def test_slow_blocks_run_when_asked(page, tmp_path, capfd):
    path = page("<!-- slow -->\n```sh\nfalse\n```\n")
    assert has_slow(path)
    assert not has_quick(path)
    assert failures(path, tmp_path, capfd) == []


def test_notes_belong_to_the_block_after_them(page):
    text = "<!-- slow -->\nwords\n```sh\n1\n```\n<!-- slow -->\n\n<!-- exit: 1 -->\n```sh\n2\n```\n"
    assert [block.notes for block in blocks(page(text))] == [{}, {"slow": "", "exit": "1"}]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("took 3.1 ms", "took 12 ms"),
        ("key 0123456789ab", "key fedcba987654"),
        ("host:1: a\nhost:0: b", "host:0: b\nhost:1: a"),
        ("first\n...\nlast", "first\n2\n3\nlast"),
        ("at 127.0.0.1:80", "at 127.0.0.1:8000"),
    ],
)
def test_times_hashes_and_the_order_of_ranks_do_not_count(shown, printed):
    assert differences(shown, printed, exact=False) == ""
    assert shown.startswith("first") or differences(shown, printed, exact=True)


def test_numbers_count():
    assert differences("loss 2.31", "loss 2.32", exact=False)
    assert differences("12 B", "13 B", exact=False)
