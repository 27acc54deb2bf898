"""The file of metrics: rows in order, whatever the disk does."""

import json
import os

import pytest
from full_disk import largest_file

from ringlet.runtime.training.metrics import METRICS, MetricsFile


def rows(folder):
    return [json.loads(line)["step"] for line in (folder / METRICS).read_text().splitlines()]


def test_rows_for_which_there_is_no_room_wait(tmp_path):
    said = []
    file = MetricsFile(tmp_path / "o", said.append)
    with largest_file(100):
        for step in range(20):
            file.write({"step": step, "loss": 1.5})
    written = rows(tmp_path / "o")  # each of them whole
    assert 0 < len(written) < 20
    file.write({"step": 20})
    assert rows(tmp_path / "o") == list(range(21))
    assert len(said) == 1
    assert "metrics.jsonl cannot be written (" in said[0]


IN_THE_WAY = {
    "a folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("gone/away"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a pipe without a reader": os.mkfifo,
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_in_the_way_is_said_once(tmp_path, what):
    said = []
    IN_THE_WAY[what](tmp_path / METRICS)
    file = MetricsFile(tmp_path, said.append)
    file.cut(3)
    for step in range(3):
        file.write({"step": step})
    assert [text for text in said if "; training goes on" in text] == said
    assert len(said) == 1


def test_a_run_that_goes_on_cuts_what_comes_later(tmp_path):
    file = MetricsFile(tmp_path, pytest.fail)
    file.cut(0)  # there is none
    for step in range(10):
        file.write({"step": step})
    with (tmp_path / METRICS).open("a") as other:
        other.write('null\n{"step": "x"}\n{"step": 4')  # not a row, and half a row
    file.cut(6)
    assert rows(tmp_path) == list(range(7))
    with largest_file(10):
        file.cut(3)  # takes no room
    assert rows(tmp_path) == list(range(4))
