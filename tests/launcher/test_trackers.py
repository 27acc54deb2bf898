"""TensorBoard, MLflow, Weights & Biases: what their readers find of a training."""

import struct
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
from full_disk import largest_file

from ringlet.launcher.cli import main
from ringlet.launcher.commands.train.trackers.chosen import PACKAGES, Guarded, trackers
from ringlet.launcher.commands.train.trackers.tensorboard import EventFiles
from ringlet.runtime.training.callbacks import Callback

needs_it = pytest.mark.skipif(
    find_spec("tensorboardX") is None, reason="no tensorboardX here: pip install tensorboardX"
)


def events(path):
    """The records of a file (TFRecord: length, its checksum, data, its checksum)."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    def masked(data):
        crc = crc32c(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    data = path.read_bytes()
    while data:
        length, check = struct.unpack("<QI", data[:12])
        assert check == masked(data[:8])
        record, (check,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length :][:4])
        assert check == masked(record)
        yield Event.FromString(record)
        data = data[16 + length :]


def scalars(path):
    """{tag: [(step, value)]}"""
    found = {}
    for event in events(path):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def row(step, **more):
    return "step", {"step": step, "loss": 2.0 / step, "grad_norm": None, "comm_s": 0.5, **more}


def start(step):
    facts = {"step": step, "steps": 9, "config": {"seed": 1, "data": "pydoc"}, "workers": 2}
    return "start", {**facts, "mesh": {"dp": 2}, "folder": "runs/mine"}


FIRST = "evaluation", {"step": 0, "val_loss": 5.0}
END = "end", {"step": 4, "stopped": False, "val_loss": 1.0, "checkpoint": None}
LATER = "evaluation", {"step": 4, "val_loss": 1.0}
FAILED = "failure", {"step": 3, "cause": "rank 1 failed", "ranks": []}
RESUMED = (
    start(0), FIRST, row(1), row(2), row(3), FAILED, start(2), row(3), LATER, row(4, val_loss=1.0),
    END,
)  # fmt: skip


@needs_it
def test_a_run_that_goes_on_says_from_where_the_earlier_files_do_not_count(tmp_path):
    files = EventFiles(tmp_path)
    for event, facts in RESUMED:
        files.take(event, facts)
    first, second = sorted(tmp_path.iterdir(), key=lambda path: path.suffix)
    assert scalars(first) == {
        "loss/validation": [(0, 5.0)],
        "loss/training": [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))],
        "communication/seconds_waited": [(1, 0.5), (2, 0.5), (3, 0.5)],
    }
    assert [step for step, _ in scalars(second)["loss/training"]] == [3, 4]
    assert scalars(second)["loss/validation"] == [(4, 1.0)]
    starts = [event.step for event in events(second) if event.HasField("session_log")]
    assert starts == [3]


@needs_it
def test_a_full_disk_ends_the_files_and_not_the_training(tmp_path):
    said = []
    files = Guarded(EventFiles(tmp_path), "--tensorboard here", said.append)
    with largest_file(2000):
        for event, facts in (start(0), FIRST, *map(row, range(1, 1000)), END):
            files.take(event, facts)
    assert said == ["--tensorboard here ends here: File too large"]


@needs_it
def test_training_with_tensorboard(tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        main(
            ["train", "--preset", "tiny", "--steps", "3", "--sample", "0", "-n", "1", "--out",
             str(tmp_path / "o"), "--eval-windows", "32", "--tensorboard", str(tmp_path / "tb")]
        )  # fmt: skip
    assert not ended.value.code, capfd.readouterr().err
    (path,) = (tmp_path / "tb").iterdir()
    found = scalars(path)
    assert [step for step, _ in found["loss/training"]] == [1, 2, 3]
    assert [step for step, _ in found["loss/validation"]] == [0, 3]
    assert {"optimizer/learning_rate", "optimizer/grad_norm", "speed/tokens_per_s"} < set(found)


class Client:
    """A stand-in for mlflow's client, which keeps what it is told."""

    runs, ends, params, tags = {}, [], [], {}

    def __init__(self, tracking_uri):
        self.address = tracking_uri

    def get_experiment_by_name(self, name):
        assert name == "ringlet"

    def create_experiment(self, name):
        return "7"

    def create_run(self, experiment, run_name):
        name = f"{experiment}/{run_name}/{len(self.runs)}"
        self.runs[name] = {}
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def log_batch(self, run, metrics=(), params=()):
        self.params += [(each.key, each.value) for each in params]
        for each in metrics:
            self.runs[run].setdefault(each.key, []).append((each.step, each.value))

    def set_tag(self, run, name, value):
        self.tags[run] = {name: value}

    def set_terminated(self, run, status):
        self.ends.append((run, status))


def named(*names):
    return lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))


def test_mlflow_is_told_of_each_start_as_a_run(monkeypatch):
    module = ModuleType("mlflow")
    module.MlflowClient = Client
    module.exceptions = SimpleNamespace(MlflowException=RuntimeError)
    metric, param = named("key", "value", "time", "step"), named("key", "value")
    module.entities = SimpleNamespace(Metric=metric, Param=param)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    (tracker,) = trackers(asked(mlflow="http://here"), pytest.fail)
    for event, facts in RESUMED:
        tracker.take(event, facts)
    first, second = Client.runs.values()
    assert first["loss/training"] == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    assert first["loss/validation"] == [(0, 5.0)]
    assert second["loss/validation"] == [(4, 1.0)]
    assert Client.ends == [("7/mine/0", "FAILED"), ("7/mine/1", "FINISHED")]
    assert Client.tags == {"7/mine/0": {"cause": "rank 1 failed"}}
    assert ("seed", "1") in Client.params


def test_weights_and_biases_is_told_of_each_start_as_a_run(monkeypatch):
    told = []

    class OneRun:
        def log(self, metrics, step):
            told.append((step, metrics.get("loss/training", metrics.get("loss/validation"))))

        def finish(self, exit_code):
            told.append(f"ended with {exit_code}")

    module = ModuleType("wandb")
    module.init = lambda **facts: told.append((facts["project"], facts["name"])) or OneRun()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tracker,) = trackers(asked(wandb="mine"), pytest.fail)
    for event, facts in RESUMED:
        tracker.take(event, facts)
    first = [("mine", "mine"), (0, 5.0), (1, 2.0), (2, 1.0), (3, 2 / 3), "ended with 1"]
    assert told == [*first, ("mine", "mine"), (3, 2 / 3), (4, 0.5), "ended with 0"]


def asked(**options):
    return SimpleNamespace(**{**dict.fromkeys(PACKAGES), **options})


def test_what_a_tracker_raises_ends_it_and_not_the_training():
    said = []

    class Broken(Callback):
        def step(self, facts):
            raise RuntimeError("the server is gone\nand more")

    tracker = Guarded(Broken(), "--mlflow there", said.append)
    for event, facts in RESUMED:
        tracker.take(event, facts)
    assert said == ["--mlflow there ends here: the server is gone"]


@pytest.mark.parametrize("name", PACKAGES)
def test_where_it_is_not_installed_it_is_refused_with_the_remedy(
    name, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(f"{trackers.__module__}.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", str(tmp_path / "o"), f"--{name}", "there"])
    assert ended.value.code == 2
    assert f"pip install 'ringlet[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
