"""`ringlet calibrate`: this machine's description is measured once, and is like any other."""

import signal
import tomllib

import click
import pytest

from ringlet import runtime
from ringlet.launcher.cli import main
from ringlet.launcher.commands import calibrate as command
from ringlet.launcher.commands.plan.machine import machine
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.runtime.planning.calibrate import sizes
from ringlet.runtime.planning.cluster import Cluster, Tier, parse_cluster
from ringlet.runtime.planning.device import Device
from ringlet.runtime.planning.fabric import Fabric, Ranks
from ringlet.runtime.planning.links import LARGE, SMALL, fitted
from ringlet.runtime.planning.models import model_of
from ringlet.runtime.planning.plan import links_of
from ringlet.runtime.training.factories import model_config

DEVICE = Device(1e9, 1e9, {"float32": 1e10})
LINK = Tier(2, 1e-5, 1e9, memory=True)
KNOWN = Cluster(DEVICE, 2, 1, (LINK,), name="known")


class Failing:
    """A supervisor whose workers fail."""

    code = 1

    def __init__(self, job, *args, **how):
        job.clean()

    def run(self):
        return self.code


def calibrate(capfd, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *map(str, arguments)])
    out, err = capfd.readouterr()
    return ended.value.code, out, err


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch):
    """A machine that takes no time to measure; how often it was."""
    calls = []
    monkeypatch.setattr(command, "_measured", lambda *how: calls.append(how) or KNOWN)
    return calls


def test_two_workers_are_measured_once(capfd, tmp_path):
    file = tmp_path / "machine.toml"
    code, out, _ = calibrate(capfd, "-n", 2, "--seconds", 0, "--out", file)
    assert code == 0
    assert "GFLOP/s" in out
    found = runtime.load_cluster(file)
    assert parse_cluster(tomllib.loads(str(found))) == found
    assert (found.devices, found.hosts, [tier.ranks for tier in found.links]) == (2, 1, [2])
    device, link = found.device, found.links[0]
    assert 1e8 < device.peak["float32"] < 1e13
    assert 1e-7 < device.kernel < 1e-2
    assert link.memory == (link.name == "shared memory")
    assert 1e-8 < link.latency < 1
    assert dict(found.slowdown.neighbours).keys() == {2.0}
    names = {one.name for one in device.operators}
    assert {"linear", "linear_inputs", "linear_weights", "attention", "gelu"} <= names
    assert set(device.rates) >= {"norm", "residual", "loss", "update"}
    nano = runtime.make_config("nano")
    step = runtime.simulate(
        model_of(model_config(nano, 256)), found, runtime.Setting({"dp": 2}, nano.batch_size, 6)
    )
    assert 1e-4 < step.seconds < 60

    code, out, _ = calibrate(capfd, "-n", 2)
    assert code == 0
    assert out.startswith("as it was measured before")


def test_again_measures_again(measured, capfd):
    for words in ((), ("--again",), ()):
        assert calibrate(capfd, "-n", 2, *words)[0] == 0
    assert len(measured) == 2


def test_a_user_without_a_home_is_measured(measured, monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.expanduser", homeless)
    assert command.calibrated(2) == command.calibrated(2) == KNOWN
    assert len(measured) == 2


def test_a_signal_ends_it_as_one(monkeypatch):
    monkeypatch.setattr(Failing, "code", ExitCode.SIGNAL + signal.SIGTERM)
    monkeypatch.setattr(command, "Supervisor", Failing)
    with pytest.raises(click.exceptions.Exit) as ended:
        command.calibrated(2)
    assert ended.value.exit_code == 143


def test_what_was_measured_is_remembered(measured, cache):
    assert command.calibrated(2) == command.calibrated(2) == KNOWN
    assert len(measured) == 1
    command.calibrated(3)
    command.calibrated(2, "tcp")
    assert len(measured) == 3
    assert len(list((cache / "ringlet").iterdir())) == 3  # and nothing half written


def test_plans_are_for_the_machine_that_was_measured(measured, capsys):
    assert machine(2).name == "this machine"
    assert "ringlet calibrate -n 2" in capsys.readouterr().err
    assert machine(2, measure=True) == machine(2) == KNOWN
    assert len(measured) == 1
    assert "not calibrated" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "devices = 2", "\0", "[[[", str(KNOWN)[:-30], "a = " + "[" * 5000]
)
def test_a_damaged_cache_is_measured_again(measured, text):
    path = command.cache_file(2, "auto")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert command.calibrated(2) == KNOWN
    assert len(measured) == 1
    assert command.remembered(path) == KNOWN


def test_a_cache_that_cannot_be_written_is_done_without(measured, cache):
    cache.write_text("a file, where a folder should be")
    assert command.calibrated(2) == command.calibrated(2) == KNOWN
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--transport", "pigeon"), "unknown transport 'pigeon'"),
        (("--seconds", "soon"), "--seconds is 'soon'"),
        (("-n", "-1"), "not in the range x>=0"),
        (("--out", "."), "--out . is a folder"),
        (("--out", "/nowhere/machine.toml"), "--out /nowhere/machine.toml"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(capfd, measured, arguments, says):
    code, _, err = calibrate(capfd, *arguments)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not measured


def test_workers_that_fail_are_an_error(monkeypatch):
    monkeypatch.setattr(command, "Supervisor", Failing)
    with pytest.raises(UserError, match="could not be measured"):
        command.calibrated(2)


@pytest.mark.parametrize(
    ("ranks", "expected"), [(1, []), (2, [2]), (3, [3]), (6, [2, 6]), (8, [2, 4, 8])]
)
def test_links_are_measured_for_groups_of(ranks, expected):
    assert sizes(ranks) == expected


def test_a_plan_pins_the_links_that_were_measured():
    sockets = Tier(2, 3e-5, 2e9, 5e-5, duplex=False)
    network = Tier(4, 1e-4, 1.2e8, 6e-5, sharing=2)
    found = links_of(Cluster(DEVICE, 2, 2, (sockets, network)))
    assert (found.host, found.network) == (sockets.cost, network.cost)


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_fitted_link_takes_what_was_measured(memory, ranks):
    tier = fitted(Tier(ranks, 1e-5, 1e9, memory=memory, overhead=1e-5), 3e-4, 5e-3)
    fabric = Fabric(Cluster(DEVICE, ranks, 1, (tier,)))
    for nbytes, seconds in ((SMALL, 3e-4), (LARGE, 5e-3)):
        found = fabric.collective("all_reduce", Ranks(ranks, 1), nbytes)
        assert found == pytest.approx(seconds, rel=0.05)
