"""Private folders last as long as the process that made them, or until the next one is made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringlet.comm.join.folders import PREFIX, leave_folder, make_folder, remove_folder

MAKE_AND_STAY = """
import socket
from ringlet.comm.join.folders import make_folder
folder = make_folder()
socket.socket(socket.AF_UNIX).bind(str(folder / "0.inbox"))
print(folder, flush=True)
input()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where temporary files go, here and in processes that are started."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def another_process():
    """A process that has made a folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE_AND_STAY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_s_goes_when_the_next_is_made_and_a_living_one_s_stays(place):
    (dead, its), (alive, held) = another_process(), another_process()
    try:
        dead.kill()
        dead.wait()
        assert its.exists()
        mine, second = make_folder(), make_folder()
        assert sorted(place.iterdir()) == sorted([held, mine, second])
        assert [*held.iterdir()] == [held / "0.inbox"]
        assert mine.stat().st_mode & 0o777 == 0o700
        remove_folder(mine)
        leave_folder(second)
        assert [*place.iterdir()] == [held]
    finally:
        for process in (dead, alive):
            process.kill()
            process.communicate()


def test_a_folder_is_left_to_who_still_uses_it(place):
    folder = make_folder()
    (folder / "1.inbox").touch()
    leave_folder(folder)
    assert folder.exists()


def open_to_others(path):
    path.mkdir(mode=0o755)


def link_to_elsewhere(path):
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    path.symlink_to(elsewhere)


def with_a_file(path):
    path.mkdir(mode=0o700)
    (path / "notes").touch()


@pytest.mark.parametrize("make", [Path.touch, open_to_others, link_to_elsewhere, with_a_file])
def test_what_this_program_has_not_made_stays(place, make):
    path = place / f"{PREFIX}abcdefgh"
    make(path)
    before = sorted(place.iterdir())
    remove_folder(make_folder())
    assert sorted(place.iterdir()) == before


def test_another_user_s_stay(place, monkeypatch):
    theirs = place / f"{PREFIX}abcdefgh"
    theirs.mkdir(mode=0o700)
    with monkeypatch.context() as patched:
        patched.setattr(os, "getuid", lambda: theirs.stat().st_uid + 1)
        remove_folder(make_folder())
    assert theirs.exists()
    remove_folder(make_folder())
    assert not theirs.exists()
