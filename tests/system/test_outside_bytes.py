"""Every parser of bytes from outside, fed with what is none: it raises its own error, or nothing.

READERS lists them all: what a stranger, a peer, a file or an environment can say. Each gets valid
examples with something in them replaced, removed, flipped or cut, and plain rubbish. More of it:
`pytest -m slow tests/system/test_outside_bytes.py`.
"""

import contextlib
import copy
import json
import os
import socket
import struct
import tempfile
import tracemalloc
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringlet import comm
from ringlet.comm.faults import parse_fault
from ringlet.comm.join.environment import read_environment
from ringlet.comm.join.key import JobKey, read_key
from ringlet.comm.join.launchers import translate
from ringlet.comm.join.meeting import unpack_notice
from ringlet.comm.join.rendezvous import check_hello, check_notice
from ringlet.comm.objects import pack, unpack
from ringlet.comm.schedules.choice import Policy
from ringlet.comm.schedules.links import Links
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.ciphers import KeyPair
from ringlet.comm.sockets.endpoint import Endpoint
from ringlet.comm.sockets.outbox import Peer
from ringlet.comm.sockets.tcp_socket import TcpSocket
from ringlet.comm.sockets.wire import (
    CONTROL,
    MAGIC,
    Damaged,
    Header,
    Malformed,
    allocate,
    checksum,
    decode,
    encode,
)
from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts.hostfile import parse_hosts
from ringlet.launcher.hosts.notices import Assignment, HostInfo
from ringlet.launcher.hosts.notices import check_notice as check_agents
from ringlet.launcher.supervisor.control import Control
from ringlet.launcher.supervisor.failure import Failure
from ringlet.nn.adapter_config import AdapterConfig
from ringlet.nn.models.huggingface.folder import (
    PretrainedError,
    read_config,
    read_generation,
    read_weights,
)
from ringlet.nn.safetensors import SafetensorsError, SafetensorsFile
from ringlet.runtime import (
    CheckpointError,
    ClusterError,
    ConfigError,
    PlanError,
    load_cluster,
    load_plan,
    verify_checkpoint,
)
from ringlet.runtime.checkpoint.manifest import NAME, read_manifest, sealed
from ringlet.runtime.checkpoint.restore import CheckpointReader
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.text.folder import read_manifest as read_text_manifest
from ringlet.runtime.text.sources import Form, Source, Tally, read
from ringlet.runtime.training.config import make_config
from ringlet.runtime.training.corpus import DataError, load_corpus

ENDPOINT_JOB = ("job", 2)


def endpoint():
    """A rank of a world of three without connections."""
    made = Endpoint(0, 3, *ENDPOINT_JOB)
    made.peers = {rank: Peer(rank, "host", 1, "", "") for rank in (1, 2)}
    return made


class Frame:
    """What an endpoint gets from ZeroMQ."""

    def __init__(self, data):
        self.bytes, self.buffer = data, memoryview(data)

    def __len__(self):
        return len(self.bytes)

    def get(self, name):
        return "nobody"


def control_word(name, content):
    data = msgpack.packb(content)
    header = Header(*ENDPOINT_JOB, 1, "", CONTROL, 0, Signature(name, "", (), ""), 0)
    return encode(header._replace(checksum=checksum(data))), data


def heed(words):
    """Control messages whose headers are right. They are counted if they are none."""
    for word, content in words.items():
        parts = control_word(word, plain(content))
        shared_endpoint()._accept([Frame(part) for part in parts])


_endpoint: list[Endpoint] = []


def shared_endpoint():
    if not _endpoint:
        _endpoint.append(endpoint())
    return _endpoint[0]


def read_header(data):
    header = decode(data)
    str(header.signature)
    if header.signature.dtype and np.prod(header.signature.shape, dtype=float) < 1e6:
        allocate(header.signature)


def read_frames(data):
    made = shared_endpoint()
    made._accept([Frame(data), Frame(b"")])
    made.inbox._messages.clear()


def read_plain(data):
    """What comes by a plain socket, and its end."""
    here, there = socket.socketpair()
    here.setblocking(False)
    there.sendall(data[:150_000])  # what fits the buffer
    there.close()
    tcp = TcpSocket(1, here, lambda waits: None, shared_endpoint()._begin)
    try:
        while True:
            tcp.read(shared_endpoint()._accept_carried)
    except EOFError:
        pass
    finally:
        tcp.close()
        shared_endpoint().inbox._messages.clear()


SALT = bytes(32)
OURS, THEIRS = KeyPair(), KeyPair()


def read_sealed(data):
    """A message of two frames, the length of the first before it."""
    receiver, _ = THEIRS.way(OURS.offer, SALT, ("job", 0, 1), False)
    size = int.from_bytes(data[:2])
    _, seal = receiver.open(data[2 : 2 + size])
    seal.open(data[2 + size :])


def sealed_message():
    sender, _ = OURS.way(THEIRS.offer, SALT, ("job", 0, 1), True)
    head, payload = sender.seal(b"a header", b"an array")
    return len(head).to_bytes(2) + head + payload


def through_control(data):
    """What a launcher reads from a worker."""
    ours, theirs = socket.socketpair()
    with theirs, contextlib.closing(Control(ours)) as control:
        for start in range(0, len(data), 1 << 14):
            theirs.sendall(data[start : start + (1 << 14)])
            if not control.fill():
                return
            assert all(type(message) is dict for message in control.notices())


def file_reader(read, name="file", mode=0o600):
    """The reader, of bytes that lie in a file."""

    def reader(data):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(data)
            path.chmod(mode)
            return read(path)

    return reader


def read_safetensors(path):
    file = SafetensorsFile(path)
    for name in file:
        assert file[name].nbytes <= 2 * path.stat().st_size


def read_checkpoint(manifest):
    """A manifest with the right checksum, next to a shard that is whole: says what it wants."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "step-000001")
        path.mkdir()
        (path / "shard-0.safetensors").write_bytes(SHARD)
        (path / NAME).write_bytes(sealed(json.loads(json_bytes(manifest))))
        found = verify_checkpoint(path)
        reader = CheckpointReader(found)
        for name in found.manifest["arrays"]:
            if np.prod(found.manifest["arrays"][name]["shape"], dtype=float) < 1e6:
                reader.whole(name)
        for key in reader.extras():
            reader.extra(key)


def read_toml(path):
    make_config(None, path, {})


def environment(variables):
    read_environment(as_text(variables))


def mpi(variables):
    translate(as_text(variables))


def as_text(variables):
    """What can stand in an environment."""
    texts = {name: str(text).replace("\0", "") for name, text in variables.items()}
    return {name: text for name, text in texts.items() if name and "=" not in name}


def of_maps(read):
    """The reader; what is no map is no input for it."""
    return lambda value: read(value) if isinstance(value, dict) else None


def packed(value):
    return msgpack.packb(value, default=repr)


def json_bytes(value):
    return json.dumps(value, default=repr).encode()


HELLO = {
    "job": "j", "generation": 0, "rank": 1, "size": 2, "host": "h", "name": "n", "pid": 7,
    "addresses": {"tcp": "tcp://127.0.0.1:4"}, "token": "t", "seal": "", "algorithm": "",
}  # fmt: skip
HEADER = Header("job", 2, 1, "world", -1, 3, Signature("all_reduce", "<f4", (2, 3), "sum"), 0)
NUMBERS = [Header._fields.index(name) for name in ("sequence", "number", "checksum")]
FAILURE = asdict(Failure(1, "it died", 1, "Traceback", False, "a"))
HOSTS = [HostInfo(0, 2, "a", "10.0.0.1"), HostInfo(1, 2, "b", "10.0.0.2")]
ASSIGNMENT = asdict(Assignment(HOSTS, "j", "tcp://a:1"))
WORLD = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500", "RINGLET_TIMEOUT": "3.5", "RINGLET_GENERATION": "2",
    "RINGLET_TRANSPORT": "tcp", "RINGLET_ENCRYPT": "all", "RINGLET_KEY": JobKey.new().text,
    "RINGLET_ALGORITHM": "all_reduce=ring", "RINGLET_LINKS": str(Links()),
    "RINGLET_ADDRESS": "127.0.0.1",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "x",
}  # fmt: skip
TOML = b'preset = "tiny"\nsteps = 20\nlearning_rate = 0.1\ndata = "pydoc"\nmodel = "gpt"\n'
LLAMA = {
    "model_type": "llama", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "rms_norm_eps": 1e-5, "tie": None,
}  # fmt: skip
ADAPTER = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "lora_dropout": 0.5, "use_rslora": True,
    "rank_pattern": {"q_proj": 3}, "alpha_pattern": {r".*\.layers\.[01]\.q_proj": 3},
    "target_modules": ["q_proj"], "init_lora_weights": True, "bias": "none", "use_dora": False,
}  # fmt: skip


def safetensors(arrays):
    """The format by hand: length, header, bytes."""
    entries, data = {}, b""
    for name, array in arrays.items():
        place = [len(data), len(data) + array.nbytes]
        entries[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    return with_header(entries, data)


def with_header(entries, data=bytes(24)):
    header = json_bytes(entries)
    return struct.pack("<Q", len(header)) + header + data


ARRAYS = {name: np.arange(6, dtype="f4").reshape(2, 3) for name in "ab"} | {
    "extras:x": np.ones(2, "f4")
}
SHARD = safetensors(ARRAYS)
PIECE = {"file": "shard-0.safetensors", "key": "a", "first": 0, "view": [2, 3], "cuts": []}
CUT = {**PIECE, "key": "b", "cuts": [[0, 0, 2, 2]]}


def manifest():
    from ringlet.runtime.checkpoint.manifest import digest

    files = file_reader(lambda path: {"shard-0.safetensors": digest(path)})(SHARD)
    return {
        "step": 1, "config": {}, "optimizer": {"name": "SGD", "steps": 1}, "val_loss": 0.5,
        "arrays": {
            "parameters/a": {"shape": [2, 3], "dtype": "<f4", "pieces": [PIECE]},
            "parameters/b": {"shape": [2, 3], "dtype": "<f4", "pieces": [CUT]},
        },
        "extras": {"extras:x": {"file": "shard-0.safetensors", "shape": [2], "dtype": "<f4"}},
        "files": files,
    }  # fmt: skip


def sealed_bytes(value):
    return sealed(json.loads(json_bytes(value))) if isinstance(value, dict) else json_bytes(value)


def header_bytes(fields):
    """A header of any fields, with the right checksum."""
    fields = plain(fields)
    fields = list(enumerate(fields if isinstance(fields, list) else [fields]))
    fixed = [field for place, field in fields if place not in NUMBERS]
    numbers = [field for place, field in fields if place in NUMBERS and type(field) is int]
    packed = msgpack.packb((MAGIC, *fixed))
    numbers = [number % 2**64 for number in [*numbers, 0, 0, 0][:3]]
    content = packed + struct.pack("<QQ?Q", *numbers[:2], True, numbers[2])
    return struct.pack("<I", zlib.crc32(content)) + content


def lengthened(message):
    data = pack(message).tobytes()
    return struct.pack("<I", len(data)) + data


TOKENS = {
    "format": 1, "dtype": "<u2", "shard_tokens": 4, "tokens": 5, "documents": 1, "bytes": 9,
    "replaced": 0, "empty": 0, "unknown": 0, "vocab_size": 9,
    "end_of_text": {"id": 0, "token": "x"},
    "options": {}, "sources": [["a", "text", 9]], "files": {
        name: {"bytes": size, "sha256": ""} for name, size in (
            ("tokenizer.json", 3), ("documents.bin", 8), ("document-bytes.bin", 8),
            ("shard-00000.bin", 8), ("shard-00001.bin", 2),
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A parser: what it raises, valid examples, and how they become bytes (None: they stay)."""

    read: Any
    errors: tuple
    examples: tuple
    write: Any = None


READERS = {
    "headers": Reader(read_header, (Malformed,), (HEADER,), header_bytes),
    "frames": Reader(read_frames, (), (HEADER,), header_bytes),
    "plain sockets": Reader(read_plain, (ValueError,), (
        b"".join(struct.pack(">HI", 4, len(body)) + b"head" + body
                 for body in (b"", b"body", bytes(70_000))),
    )),
    "control messages of peers": Reader(of_maps(heed), (), tuple(
        {word: content} for word, content in (
            ("hello", None), ("credit", 7), ("full", None), ("lost", {1: "cause"}),
            ("goodbye", {2: "cause"}), ("mismatch", {"group": "world", "text": "no"}),
            ("waiting", ["world", 1, -1, 3, ["all_reduce", "<f4", [2], "sum"], 0.5]),
        )
    )),
    "objects": Reader(
        lambda data: unpack(np.frombuffer(data, np.uint8)), (ValueError,),
        ({"a": [1, None, "x", np.ones((2, 3))]}, [np.zeros(0)]),
        lambda value: pack(plain(value)).tobytes(),
    ),
    "hellos at the rendezvous": Reader(
        lambda data: check_hello(msgpack.unpackb(data)),
        (ValueError, TypeError, KeyError, msgpack.UnpackException), (HELLO,), packed,
    ),
    "rank 0's notices": Reader(
        lambda data: unpack_notice(data, lambda notice: check_notice(notice, 2)), (ValueError,),
        ({"table": [{**HELLO, "rank": 0}, HELLO]}, {"refused": "why"}, {"missing": [1, 2]}), packed,
    ),
    "agents' notices": Reader(lambda data: unpack_notice(data, check_agents), (ValueError,), (
        {"join": ASSIGNMENT["hosts"][0], "nodes": 2, "version": "1", "job": ""},
        {"assignment": ASSIGNMENT}, {"wait": True},
        {"failure": FAILURE}, {"outcome": FAILURE, "code": 1}, {"ended": 1, "leaving": False},
        {"missing": [1], "here": ["a"]}, {"again": True}, {"refused": "why"}, {"alive": 1},
    ), packed),
    "workers' notices": Reader(
        through_control, (), ({"failed": "text", "line": "x", "echo": True}, {"row": {"a": 1.0}}),
        lambda value: lengthened(plain(value)),
    ),
    "sealed messages": Reader(read_sealed, (Damaged,), (sealed_message(),)),
    "offers of keys": Reader(
        lambda data: OURS.way(data.decode(errors="replace"), SALT, ("job", 0, 1), True),
        (ValueError,), (THEIRS.offer.encode(),),
    ),
    "key files": Reader(
        file_reader(read_key), (comm.AuthenticationError,), (JobKey.new().text.encode(),)
    ),
    "the environment": Reader(of_maps(environment), (comm.CommError,), (WORLD,)),
    "mpirun's variables": Reader(of_maps(mpi), (comm.CommError,), (OPEN_MPI,)),
    "links": Reader(
        lambda data: Links.parse(data.decode(errors="replace")).coarse(), (comm.CommError,),
        (str(Links()).encode(),),
    ),
    "algorithms": Reader(
        lambda data: Policy.parse(data.decode(errors="replace")), (ValueError, comm.CommError),
        (b"all_reduce=ring,broadcast=chain", b"auto", b"first"),
    ),
    "faults": Reader(
        lambda data: parse_fault(data.decode(errors="replace")), (ValueError,),
        (b"delay rank 1 at its first barrier by 0.5 s", b"kill rank 2 in its 12th reduce"),
    ),
    "host files": Reader(
        file_reader(lambda path: parse_hosts(None, path, 2)), (UserError,),
        (b"a:2\nb slots=4 # two\n[fd00::1]:3\n", b"me@a\n"),
    ),
    "config files": Reader(file_reader(read_toml), (ConfigError,), (TOML,)),
    "manifests": Reader(
        lambda data: file_reader(lambda path: read_manifest(path.parent), NAME)(data),
        (CheckpointError,), (manifest(),), sealed_bytes,
    ),
    "manifests of one who means it": Reader(
        of_maps(read_checkpoint), (CheckpointError,), (manifest(),)
    ),
    "safetensors": Reader(file_reader(read_safetensors), (SafetensorsError,), (SHARD,)),
    "safetensors' headers": Reader(
        file_reader(read_safetensors), (SafetensorsError,),
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}},), with_header,
    ),
    "Hugging Face's configs": Reader(
        file_reader(lambda path: read_config(path.parent), "config.json"), (PretrainedError,),
        (LLAMA,), json_bytes,
    ),
    "Hugging Face's generation configs": Reader(
        file_reader(lambda path: read_generation(path.parent), "generation_config.json"),
        (PretrainedError,), ({"eos_token_id": [1, 2]},), json_bytes,
    ),
    "adapters' configs": Reader(
        file_reader(lambda path: AdapterConfig.read(path).of("model.layers.0.q_proj")),
        (ValueError,), (ADAPTER,), json_bytes,
    ),
    "folders of tokens": Reader(
        file_reader(lambda path: read_text_manifest(path.parent), "manifest.json"), (TextError,),
        (TOKENS,), json_bytes,
    ),
    "token files": Reader(
        file_reader(lambda path: load_corpus(str(path), 4), "ids.bin"), (DataError,),
        (bytes(200),),
    ),
}  # fmt: skip

ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(),
        st.text(max_size=9),
        st.binary(max_size=9), st.sampled_from(["9" * 5000, 10**400, -1, 2**62, "O", "V0", "<U"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
    ),
    max_leaves=6,
)  # fmt: skip


def plain(value):
    """Without what msgpack cannot hold."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    big = type(value) is int and not -(2**63) <= value < 2**64
    return str(value) if big else value


def places(value, at=()):
    """The ways to everything in a nested value."""
    yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*at, number))


def changed(value, at, new, remove):
    """The value with another one at a place, or none."""
    if not at:
        return new
    value = copy.copy(value)
    if len(at) == 1 and remove:
        del value[at[0]]
    else:
        value[at[0]] = changed(value[at[0]], at[1:], new, remove)
    return value


def damaged(draw, data):
    """Bytes with some flipped, cut off or added."""
    data = bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(data)) | st.just(len(data)))
    return bytes(data[:end]) + draw(st.binary(max_size=3) | st.just(b""))


@st.composite
def inputs(draw, reader):
    """What the reader gets."""
    example = draw(st.sampled_from(reader.examples))
    if isinstance(example, bytes):
        return damaged(draw, example) if draw(st.integers(0, 9)) else draw(st.binary())
    nested = [*example[:6], list(example[6]), *example[7:]] if example is HEADER else example
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.sampled_from(sorted(places(nested), key=repr)[1:] or [()]))
        nested = changed(nested, at, draw(ANYTHING), draw(st.booleans()))
    if reader.write is None:
        return nested
    data = reader.write(plain(nested) if reader.write is packed else nested)
    return damaged(draw, data) if draw(st.integers(0, 3)) == 0 else data


def check(name, value):
    reader = READERS[name]
    with contextlib.suppress(*reader.errors):
        reader.read(value)


@pytest.mark.parametrize("name", READERS)
def test_valid_examples_are_read(name):
    reader = READERS[name]
    for example in reader.examples:
        reader.read(example if reader.write is None else reader.write(example))


QUIETLY = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@pytest.mark.parametrize("name", READERS)
def test_anything_else_is_the_documented_error(name):
    @settings(max_examples=60, derandomize=True, **QUIETLY)
    @given(inputs(READERS[name]))
    def play(value):
        check(name, value)

    play()


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_much_of_anything_else_is_the_documented_error(name):
    @settings(max_examples=1000, **QUIETLY)
    @given(inputs(READERS[name]))
    def play(value):
        check(name, value)

    play()


BOMBS = {
    "an array of 4 G": b"\xdd\xff\xff\xff\xff",
    "a map of 4 G": b"\xdf\xff\xff\xff\xff",
    "text of 4 G": b"\xdb\xff\xff\xff\xff",
    "bytes of 4 G": b"\xc6\xff\xff\xff\xff",
    "an extension of 4 G": b"\xc9\xff\xff\xff\xff\x01",
    "deep arrays": b"\x91" * 100_000,
    "deep maps": b"\x81\xa1a" * 100_000,
    "deep JSON": b"[" * 100_000,
    "deep JSON objects": b'{"a":' * 100_000,
    "deep TOML": b"a = " + b"[" * 50_000,
    "a long number": b"9" * 100_000,
    "a long number in TOML": b"steps = " + b"9" * 100_000,
    "a long length": b"\xff" * 7 + b"\x7f" + bytes(100),
    "a long message": b"\xff\xff\xff\xff" + bytes(1000),
    "a host of many workers": b"a:" + b"9" * 100_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_announces_much_takes_no_memory(bomb):
    for name, reader in READERS.items():
        if not (reader.write or isinstance(reader.examples[0], bytes)):
            continue  # it reads no bytes
        tracemalloc.start()
        try:
            check(name, BOMBS[bomb])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 32 << 20, (name, peak)


def test_a_damaged_manifest_is_found_without_much_memory(tmp_path):
    path = tmp_path / "step-000001"
    path.mkdir()
    with (path / NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="bytes are too many"):
        read_manifest(path)


FILES = {
    "model.safetensors": (SafetensorsFile, SafetensorsError),
    "config.json": (lambda path: read_config(path.parent), PretrainedError),
    NAME: (lambda path: read_manifest(path.parent), CheckpointError),
    "shard-0.safetensors": (lambda path: verify_checkpoint(path.parent), CheckpointError),
    "options.toml": (read_toml, ConfigError),
    "cluster.toml": (load_cluster, ClusterError),
    "plan.toml": (load_plan, PlanError),
    "generation_config.json": (lambda path: read_generation(path.parent), PretrainedError),
    "model.safetensors.index.json": (lambda path: read_weights(path.parent), PretrainedError),
    "adapter_config.json": (AdapterConfig.read, ValueError),
    "ids.bin": (lambda path: load_corpus(str(path), 4), DataError),
    "rows.jsonl": (lambda path: [*read(Source(str(path), "jsonl"), Form(), Tally())], TextError),
}
SPECIAL = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", FILES)
def test_only_regular_files_are_opened(tmp_path, name, special):
    """A pipe would be waited for without end, a device read without end."""
    read, error = FILES[name]
    if name.startswith("shard"):
        (tmp_path / NAME).write_bytes(sealed(manifest()))
    SPECIAL[special](tmp_path / name)
    with pytest.raises(error, match=name):
        read(tmp_path / name)
