"""Choices that were measured on a machine: kept when two starts agree, told to all ranks by one."""

import json

import numpy as np
import pytest

from ringlet.comm import machine
from ringlet.comm.shared.constants import CHOICES, Constants


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_choice_is_known_once_two_starts_in_a_row_have_made_it(cache):
    found = []
    for value in (1, 2, 1, 1, 2):
        machine.keep({"way": value, "another": True})
        found.append(machine.known("way"))
    assert found == [None, None, None, 1, None]
    assert machine.known("another") is True
    assert [path.suffix for path in (cache / "ringlet").iterdir()] == [".json"]  # nothing half made


def test_a_choice_is_forgotten_after_a_month_and_of_another_processor_or_kernel(cache, monkeypatch):
    for _ in range(machine.AGREEING):
        machine.keep({"way": 1})
    for name, other in (("processor", "abacus"), ("cores", 1000)):
        with monkeypatch.context() as context:
            context.setattr(machine, name, lambda other=other: other)
            assert machine.known("way") is None
    with monkeypatch.context() as context:
        context.setattr("platform.release", lambda: "0.1")
        assert machine.known("way") is None
    assert machine.known("way") == 1
    monkeypatch.setattr(machine, "KEPT_S", 0)
    assert machine.known("way") is None


@pytest.mark.parametrize(
    "text", ["", "\0", "[1]", '{"way": 1}', '{"way": [1, 2]}', '{"way": [1, 1e999, 0]}', "[" * 9999]
)
def test_a_damaged_file_is_as_none(cache, text):
    file = machine.choices_file()
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert machine.known("way") is None
    for _ in range(machine.AGREEING):
        machine.keep({"way": 1})
    assert machine.known("way") == 1


def test_where_nothing_can_be_written_nothing_is_known(cache):
    cache.write_text("a file, where a folder should be")
    for _ in range(machine.AGREEING):
        machine.keep({"way": 1})
    assert machine.known("way") is None


def test_what_a_full_disk_took_half_of_is_not_left(cache, monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    machine.keep({"way": 1})
    monkeypatch.setattr("pathlib.Path.replace", full)
    machine.keep({"way": 2})
    assert [*machine.choices()] == ["way"]
    assert len([*(cache / "ringlet").iterdir()]) == 1


def constants(world):
    return [*world._channel.shared.control.constants]


@pytest.mark.parametrize("kernel", [True, False, "perhaps"])
def test_ranks_take_over_what_is_known(ranks, cache, kernel):
    values = {c.constant: c.values[0] for c in CHOICES} | {"kernel": kernel}
    file = machine.choices_file()
    file.parent.mkdir(parents=True)
    known = {f"2 ranks, {c.text}": [values[c.constant], 2, 9e99] for c in CHOICES}
    file.write_text(json.dumps(known))
    with ranks(2, XDG_CACHE_HOME=str(cache)) as pool:
        first, second = (Constants(*found) for found in pool.run(constants))
    assert first == second
    assert first.whole == values["whole"]
    assert first.moves == values["moves"]
    assert first.kernel in ((kernel,) if kernel in (True, False) else (True, False))


def short_sum(world, whole):
    shared = world._channel.shared
    shared.use(shared.control.constants._replace(whole=whole))
    x = np.random.default_rng(world.rank).standard_normal(9_999, dtype=np.float32)
    return world.all_reduce(x).tobytes()


def test_bits_of_short_sums_are_the_same_whoever_adds_them(ranks):
    assert (
        len({bits for whole in (0, 64 << 10) for bits in ranks(3).run(short_sum, whole=whole)}) == 1
    )
