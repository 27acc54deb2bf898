"""A save that is killed, or finds the disk full, at any of its changes to the disk.

The changes are found, not listed: a first save is only watched. The system calls that open for
writing, make, rename and remove are seen by an audit hook before they happen, fsync by a patch; a
write that is cut short is a file that is cut short before its fsync.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ringlet import comm
from ringlet.launcher.testing.pool import RanksFailed
from ringlet.nn import FlatParameters, Linear, Sequential
from ringlet.nn.optim import AdamW
from ringlet.runtime import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from ringlet.runtime.checkpoint.checkpoint import MANIFEST
from ringlet.runtime.checkpoint.state import Part, TrainingState

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
OLD, NEW = 2.0, 3.0


class Changes:
    """Counts this process's changes to the disk; `happen(name, file)` is called at one of them.

    A process that has watched once watches for ever: an audit hook cannot be taken away.
    """

    def __init__(self, at=None, happen=None):
        self.names, self._at, self._happen = [], at, happen
        self._fsync, os.fsync = os.fsync, self._synced
        sys.addaudithook(self._audited)

    def _audited(self, event, arguments):
        if event in CHANGES:
            self._count(f"{event} {Path(arguments[0]).name}")
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            self._count(f"open {Path(str(arguments[0])).name}")

    def _synced(self, descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            self._count(f"write {path.name}", path)
        self._count(f"fsync {path.name}")
        self._fsync(descriptor)

    def _count(self, name, file=None):
        self.names.append(name)
        if len(self.names) - 1 == self._at:
            if file is not None:
                os.truncate(file, file.stat().st_size // 2)
            self._happen(name)


def killed(name):
    os.kill(os.getpid(), signal.SIGKILL)


def full(name):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def state_of(world, value):
    """A training state whose every number is `value`; rank r owns the parameters of layer r."""
    model = Sequential(*(Linear(3, 3) for _ in range(world.size)))
    flat = FlatParameters(model)
    optimizer = AdamW(flat, 0.1)
    optimizer.steps = int(value)
    for array in (flat.data, *optimizer.state.values()):
        array[...] = value
    state = TrainingState.of(flat, optimizer)
    (part,) = state.parts
    owned = frozenset(slot.name for slot in flat.slots if slot.name.startswith(f"{world.rank}."))
    arrays = {kind: each.__class__(each.values, owned) for kind, each in part.arrays.items()}
    state.parts = [Part(flat, optimizer, part.specs, owned, part.store, arrays)]
    return state, flat


def save(world, folder, step, value, keep=2):
    return save_checkpoint(
        folder, world, state_of(world, value)[0], step=step, config={}, keep=keep
    )


def furnish(world, folder, step):
    """Two checkpoints (three with the one of `step`, if it is one of them), and rubbish."""
    for old in (1, 2):
        save(world, folder, old, OLD)
    if world.rank == 0:
        (folder / "step-000009.tmp").mkdir()
        (folder / "step-000009.tmp" / "shard-0.safetensors").write_text("half")
    world.barrier()


def newest(world, folder):
    """The newest checkpoint's step and value (nothing else may be in it), and what was said."""
    words = []
    found = latest_checkpoint(folder, words.append) if world.rank == 0 else None
    state, flat = state_of(world, 0.0)
    step = load_checkpoint(found, world, state)
    (value,) = set(np.concatenate([flat.data, *state.optimizer.state.values()]).tolist())
    return {"step": step, "value": value, "words": words}


def rubbish(folder):
    """What a finished save must not leave."""
    return sorted(path.name for path in folder.iterdir() if path.suffix)


# -- one rank: the save runs in a fork ------------------------------------------------------------


def forked(world, folder, step, at):
    """Save in a process of its own that is killed at a change; the changes, if it was not."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        changes = Changes(at, killed)
        save(comm.init(), folder, step, NEW)  # the world of one belongs to its maker
        os.write(theirs, "\n".join(changes.names).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        names = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    assert names or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL), status
    return names


def kill_everywhere(world, folder, step):
    """[change, what was found after a kill at it, what was left after the next save]."""
    furnish(world, folder / "watched", step)
    names = forked(world, folder / "watched", step, None)
    found = []
    for at, name in enumerate(names):
        place = folder / str(at)
        furnish(world, place, step)
        assert not forked(world, place, step, at), name
        after = newest(world, place)
        save(world, place, 9, NEW)
        found.append([name, after, rubbish(place)])
    return found


@pytest.mark.parametrize("step", [3, 2], ids=["a new step", "the newest step again"])
def test_a_save_that_is_killed_anywhere_leaves_a_whole_checkpoint(ranks, tmp_path, step):
    found = ranks(1).run(kill_everywhere, folder=tmp_path, step=step)[0]
    names = [name for name, _, _ in found]
    assert len(names) > 12
    for kind in ("open", "write", "fsync"):
        assert f"{kind} shard-0.safetensors" in names
        assert f"{kind} {MANIFEST}" in names
    done = names.index(f"os.rename step-{step:06d}.tmp")
    for at, (name, after, left) in enumerate(found):
        step_and_value = (step, NEW) if at > done else (2, OLD)
        assert (after["step"], after["value"]) == step_and_value, name
        assert (after["words"], left) == ([], []), name


# -- several ranks --------------------------------------------------------------------------------


def watch(world, folder):
    """This rank's changes in a save."""
    furnish(world, folder, 3)
    changes = Changes()
    save(world, folder, 3, NEW)
    return changes.names


def save_with_a_kill(world, folder, victim, at):
    furnish(world, folder, 3)
    if world.rank == victim:
        Changes(at, killed)
    try:
        save(world, folder, 3, NEW)
    except comm.PeerLost as error:  # and no CommTimeout
        return error.rank
    return None  # the victim had nothing more to say


def check_kill(pool, folder, victim, at, name):
    with pytest.raises(RanksFailed) as failed:
        pool.run(save_with_a_kill, folder=folder, victim=victim, at=at)
    assert list(failed.value.failures) == [victim], failed.value
    assert set(failed.value.results.values()) <= {victim, None}, name
    return pool.run(after_a_kill, folder=folder)[0]


def after_a_kill(world, folder):
    after = newest(world, folder)
    save(world, folder, 9, NEW)
    return [after, rubbish(folder) if world.rank == 0 else []]


def kills(pool, folder):
    """(victim, at, name, whether the checkpoint was in its place) of every change of every rank."""
    for victim, names in enumerate(pool.run(watch, folder=folder / "watched")):
        done = f"os.rename step-{3:06d}.tmp"
        place = names.index(done) if done in names else len(names)
        for at, name in enumerate(names):
            yield victim, at, name, at > place
    pool.close()  # who has watched watches for ever


def kill_and_check(pool, folder, case):
    victim, at, name, there = case
    place = folder / f"{victim}-{at}"
    after, left = check_kill(pool, place, victim, at, name)
    assert (after["step"], after["value"]) == ((3, NEW) if there else (2, OLD)), case
    assert (after["words"], left) == ([], []), case


def test_a_rank_that_is_killed_in_a_save_is_named_and_the_last_checkpoint_loads(ranks, tmp_path):
    """Every change of rank 1, and those of rank 0 that the others' shards depend on."""
    pool = ranks(2)
    cases = list(kills(pool, tmp_path))
    wanted = [f"write {MANIFEST}", "os.rename step-000003.tmp"]
    for case in cases:
        if case[0] or case[2] in wanted:
            kill_and_check(pool, tmp_path, case)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_rank_may_be_killed_at_any_change_of_a_save(ranks, tmp_path, size):
    pool = ranks(size)
    cases = list(kills(pool, tmp_path))
    assert len(cases) > 16 + 2 * (size - 1)
    for case in cases:
        kill_and_check(pool, tmp_path, case)


# -- full disks -----------------------------------------------------------------------------------


def save_on_a_full_disk(world, folder, victim, at):
    """What the save raised, what is there, and whether the world can go on."""
    furnish(world, folder, 3)
    if world.rank == victim:
        Changes(at, full)
    text = ""
    try:
        save(world, folder, 3, NEW)
    except CheckpointError as error:
        text = str(error)
    after, left = newest(world, folder), rubbish(folder)
    world.barrier()
    save(world, folder, 4, NEW)
    return [text, after, left, newest(world, folder)["step"]]


def test_a_full_disk_is_an_error_on_every_rank_that_names_the_checkpoint(ranks, tmp_path):
    pool = ranks(2)
    cases = [
        case
        for case in kills(pool, tmp_path)
        if case[2].split()[0] in ("os.mkdir", "open", "write", "fsync") and not case[3]
    ]
    assert {case[0] for case in cases} == {0, 1}
    for victim, at, name, _ in cases:
        place = tmp_path / f"{victim}-{at}"
        results = pool.run(save_on_a_full_disk, folder=place, victim=victim, at=at)
        for text, after, left, last in results:
            assert text.startswith(f"{place / 'step-000003'} was not saved: rank {victim} "), name
            assert "No space left on device" in text
            assert (after["step"], after["value"], left, last) == (2, OLD, [], 4), name


def fill(world, folder):
    """Save until a real disk is full; the errors, and the newest checkpoint's step."""
    for step in range(1, 100):
        try:
            save(world, folder, step, float(step), keep=100)
        except CheckpointError as error:
            found = newest(world, folder)
            return [str(error), step, found["step"], found["value"], rubbish(folder)]
    return None


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"cannot mount a small disk: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(ranks, small_disk):
    for text, step, newest_step, value, left in ranks(2).run(fill, folder=small_disk):
        assert f"step-{step:06d} was not saved: rank " in text
        assert "No space left on device" in text
        assert (newest_step, value, left) == (step - 1, step - 1.0, [])


# -- damage ---------------------------------------------------------------------------------------


def save_two(world, folder):
    for step in (1, 2):
        save(world, folder, step, float(step))


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_damage_to_any_rank_s_part_is_named_and_the_one_before_loads(ranks, tmp_path, size):
    pool = ranks(size)
    pool.run(save_two, folder=tmp_path)
    good, path = tmp_path / "good", tmp_path / "step-000002"
    path.rename(good)

    def damaged(name, hurt):
        shutil.copytree(good, path)
        hurt(path / name)
        words = []
        assert latest_checkpoint(tmp_path, words.append).step == 1
        (word,) = words
        assert "skipping a damaged checkpoint" in word
        assert str(path) in word
        assert name in word
        shutil.rmtree(path)

    files = sorted(each.name for each in good.iterdir())
    assert len(files) == size + 1
    for name in files:
        bits = 8 * (good / name).stat().st_size
        for bit in range(0, bits, bits // 150):
            damaged(name, lambda file, bit=bit: flip(file, bit))
        for length in (0, 1, bits // 16, bits // 8 - 1):
            damaged(name, lambda file, length=length: os.truncate(file, length))
        damaged(name, lambda file: file.write_bytes(file.read_bytes() + b"\0"))
        damaged(name, Path.unlink)
        damaged(name, lambda file: (file.unlink(), file.mkdir()))
    for garbled in (b"[]", b"3", b"null", b'{"format": 2}', b"[" * 100_000, b"\xff\xfe", b'{"a":'):
        damaged(MANIFEST, lambda file, garbled=garbled: file.write_bytes(garbled))

    # Whole ones of different saves are no checkpoint together.
    damaged("shard-1.safetensors", lambda file: shutil.copy(
        tmp_path / "step-000001" / file.name, file))  # fmt: skip
    shutil.copytree(good, path)
    assert [verify_checkpoint(path).step, newest_value(pool, tmp_path)] == [2, 2.0]


def newest_value(pool, folder):
    return pool.run(newest, folder=folder)[0]["value"]
