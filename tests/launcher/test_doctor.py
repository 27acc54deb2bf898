"""`ringlet doctor`: what it finds, and what it says to do."""

import time
from types import SimpleNamespace

import pytest
from commands import outcome

from ringlet.launcher.commands import doctor
from ringlet.launcher.workers import doctor_worker


def checked(capfd):
    code, out, _ = outcome(capfd, "doctor")
    return code, out


def test_a_healthy_host(capfd, monkeypatch):
    monkeypatch.delenv("RINGLET_KEY", raising=False)
    monkeypatch.delenv("RINGLET_KEY_FILE", raising=False)
    code, out = checked(capfd)
    assert code == 0, out
    lines = out.splitlines()
    assert len(lines) == len(doctor.CHECKS)
    for line, name in zip(lines, doctor.CHECKS, strict=True):
        assert line.split()[0] in ("ok", "note"), line
        assert name in line
    assert "us a sum" in lines[-1]


SICK = {
    "a key that is none": ("encryption", {"RINGLET_KEY": "secret"}, "holds no job key"),
    "a BLAS that is none": ("BLAS", {"RINGLET_BLAS": "cublas"}, "it takes mkl or numpy"),
}


@pytest.mark.parametrize("case", SICK)
def test_what_is_bad_is_told_with_the_remedy(case, capfd, monkeypatch):
    name, variables, text = SICK[case]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name]})
    code, out = checked(capfd)
    assert code == 1
    assert out.startswith("bad")
    assert text in out


def clocks(world, ahead):
    """What is told of rank 1's clock, which is so far ahead."""
    told, real = [], doctor_worker.time.time
    if world.rank == 1:
        doctor_worker.time = SimpleNamespace(time=lambda: real() + ahead)
    try:
        doctor_worker.clock(world, 1, "b", lambda *words: told.append(list(words)))
    finally:
        doctor_worker.time = time
    return told[0]


@pytest.mark.parametrize("ahead", [0.0, 100.0, -100.0])
def test_clocks_that_differ(ranks, ahead):
    state, name, text = ranks(2).run(clocks, ahead=ahead)[0]
    assert (state, name) == ("note" if ahead else "ok", "clock")
    if ahead:
        way = "ahead of" if ahead > 0 else "behind"
        assert f"host 1's (b) is 100 s {way} host 0's" in text
        assert "check NTP" in text


def test_a_look_that_breaks_is_a_finding(capfd, monkeypatch):
    def breaks():
        raise OSError("no luck")

    monkeypatch.setattr(doctor, "CHECKS", {"luck": breaks})
    assert checked(capfd) == (1, f"bad   {'luck':<14} OSError: no luck\n")
