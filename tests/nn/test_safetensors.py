"""The file format: what the library writes is read, what is written the library reads, and what
is wrong is refused by name."""

import json

import numpy as np
import pytest
from safetensors import numpy as library

from ringlet.nn.safetensors import (
    DTYPES,
    SafetensorsError,
    SafetensorsFile,
    write_safetensors,
)

ARRAYS = {
    code: (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    for code, dtype in DTYPES.items()
    if code != "BF16"
} | {"nothing": np.zeros((0, 4), np.float32), "number": np.array(2.5), "": np.ones(3, np.int8)}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_it_reads_what_the_library_writes(tmp_path):
    library.save_file(ARRAYS, tmp_path / "a", metadata={"format": "np"})
    file = SafetensorsFile(tmp_path / "a")
    assert_same(file, ARRAYS)
    assert file.metadata == {"format": "np"}


def test_the_library_reads_what_it_writes(tmp_path):
    write_safetensors(tmp_path / "a", ARRAYS | {"turned": np.arange(6.0).reshape(2, 3).T})
    expected = ARRAYS | {"turned": np.array([[0.0, 3], [1, 4], [2, 5]])}
    assert_same(library.load_file(tmp_path / "a"), expected)
    assert_same(SafetensorsFile(tmp_path / "a"), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="U8", shape=(2,), place=(0, 2)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


def test_bfloat16_becomes_float32(tmp_path):
    numbers = np.array([1.0, -2.5, np.inf, 3e38], np.float32)
    halves = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    (tmp_path / "a").write_bytes(raw({"x": entry("BF16", (4,), (0, 8))}, halves.tobytes()))
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(SafetensorsFile(tmp_path / "a")["x"], expected)


WRONG = {
    "an empty file": (b"", "is empty"),
    "half a length": (b"\1\0\0", "has 3 bytes"),
    "a header longer than the file": (raw({}, length=1 << 20), "header of 1,048,576 bytes in"),
    "a negative length": (raw({}, length=(1 << 64) - 1), "header of 18,446,744"),
    "no JSON": (raw(b"{"), "not a JSON object"),
    "bytes": (raw(b"\xff\xfe"), "not a JSON object"),
    "a list": (raw([]), r"not a JSON object: it is \[\]"),
    "depth": (raw(b'{"x":' * 100_000), "not a JSON object"),
    "a name twice": (raw(b'{"x": 1, "x": 2}'), "twice"),
    "no shape": (raw({"x": {"dtype": "U8"}}), "x needs a dtype, a shape"),
    "one offset": (raw({"x": {**entry(), "data_offsets": [0]}}), "x needs"),
    "a dtype": (raw({"x": entry("F8_E4M3")}, b"ab"), "x has dtype 'F8_E4M3'; known are"),
    "a dtype that is a list": (raw({"x": {**entry(), "dtype": []}}, b"ab"), "has dtype"),
    "a negative size": (raw({"x": entry(shape=(-2,))}, b"ab"), "shape"),
    "a fraction": (raw({"x": entry(shape=(2.0,))}, b"ab"), "shape"),
    "a truth": (raw({"x": entry(shape=(True, 2))}, b"ab"), "shape"),
    "a shape of another size": (raw({"x": entry(shape=(3,))}, b"ab"), "takes 3 bytes; its offsets"),
    "offsets backwards": (raw({"x": entry(shape=(0,), place=(2, 0))}, b"ab"), "takes 0 bytes"),
    "an overflow": (raw({"x": entry(shape=(1 << 62, 4))}, b"ab"), "takes 18,446,744"),
    "many lengths": (raw({"x": entry(shape=[(1 << 63) - 1] * 40_000)}, b"ab"), "shape"),
    "lengths of 1": (raw({"x": entry(shape=[1] * 99, place=(0, 1))}, b"a"), "shape"),
    "no numbers of a long row": (
        raw(
            {
                "x": entry(shape=(0, 1 << 62), place=(0, 0)),
                "y": {**entry("F64"), "shape": [0, 1 << 62], "data_offsets": [0, 0]},
            }
        ),
        "y: no array of",
    ),
    "a long name": (raw({"x" * 9999: entry("?")}), "x has dtype '?'"),
    "a number of many digits": (raw(b'{"x":{"shape":[' + b"9" * 5000), "not a JSON object"),
    "metadata that are none": (raw({"__metadata__": [1]}), "__metadata__ is"),
    "metadata that are numbers": (raw({"__metadata__": {"a": 1}}), "__metadata__ is"),
    "an overlap": (raw({"x": entry(), "y": entry(place=(1, 3))}, b"abc"), "y overlaps x"),
    "a gap": (raw({"x": entry(), "y": entry(place=(3, 5))}, b"abcde"), "y leaves a gap after x"),
    "a gap at the front": (raw({"x": entry(place=(1, 3))}, b"abc"), "a gap after the header"),
    "a file cut short": (raw({"x": entry()}, b"a"), "its header describes"),
    "more than the header says": (raw({"x": entry()}, b"abc"), "its header describes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused(tmp_path, case):
    content, words = WRONG[case]
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(SafetensorsError, match=words) as error:
        SafetensorsFile(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(error.value)
    assert len(str(error.value)) < 500


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path):
    with pytest.raises(TypeError, match=r"no dtype for x \(object\), y \(complex128\)"):
        write_safetensors(tmp_path / "a", {"x": np.array([{}]), "y": np.zeros(2, complex)})
    assert list(tmp_path.iterdir()) == []
