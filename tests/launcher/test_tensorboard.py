"""TensorBoard's event files: what a reader finds in them."""

import struct
import sys
from importlib.util import find_spec

import pytest
from full_disk import largest_file

from ringlet.launcher.cli import main
from ringlet.launcher.commands.train.tensorboard import EventFiles

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
    return {"row": {"step": step, "loss": 2.0 / step, "grad_norm": None, "comm_s": 0.5, **more}}


@needs_it
def test_a_run_that_goes_on_says_from_where_the_earlier_files_do_not_count(tmp_path):
    files = EventFiles(tmp_path, print)
    for message in (
        {"row": {"step": 0, "val_loss": 5.0}}, row(1), row(2), {"note": "a word"}, row(3),
        {"resumed": 2}, row(3), row(4, val_loss=1.0),
    ):  # fmt: skip
        files.take(message)
    files.close()
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
    files = EventFiles(tmp_path, said.append)
    with largest_file(2000):
        files.take({"row": {"step": 0, "val_loss": 5.0}})
        for step in range(1, 1000):
            files.take(row(step))
        files.close()
    assert [text.partition("ends here")[1] for text in said] == ["ends here"]


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


def test_where_it_is_not_installed_it_is_refused_with_the_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", str(tmp_path / "o"), "--tensorboard", str(tmp_path)])
    assert ended.value.code == 2
    assert "pip install 'ringlet[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
