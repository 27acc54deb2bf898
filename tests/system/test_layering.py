"""What may import what, and what nobody may use, read from the source with ast."""

import ast
import functools
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BASE = {"numpy", "msgpack", "zmq"}
ALLOWED = {
    "comm": BASE
    | {"ringlet.comm", "torch.distributed", "mpi4py", "cryptography"},  # under torchrun, mpirun
    "nn": BASE | {"ringlet.nn", "cupy", "cupyx"},
    "runtime": {
        "numpy",
        "tokenizers",
        "zstandard",
        "ringlet.comm",
        "ringlet.nn",
        "ringlet.runtime",
    },
    "launcher": BASE
    | {
        "click",
        "rich",
        "h11",
        "ringlet",
        "tensorboardX",
        "mlflow",
        "wandb",
        "ray",
        "pytest",
    },  # its plugin
}
UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
UNSAFE_NAMES = {"recv_pyobj", "send_pyobj"}
BLOCKS = (ast.stmt, ast.excepthandler, ast.match_case)
"""The nodes that hold statements."""
CODE = [*ALLOWED, "src", "tests", "benchmarks", "docs"]


def sources(*folders):
    """The Python files below the folders, and (without any) those at the root too."""
    found = [] if folders else list(ROOT.glob("*.py"))
    for folder in folders or CODE:
        found.extend(path for path in (ROOT / folder).rglob("*.py") if not path.is_symlink())
    return sorted(found)


def imports(tree):
    """(line, module) of every import; `from ringlet import comm` is one of ringlet.comm."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [alias.name for alias in node.names] if node.module == "ringlet" else []
            yield from ((node.lineno, f"ringlet.{name}") for name in names)
            if not names:
                yield node.lineno, str(node.module)


def statements(tree):
    """The statements in it, of which imports are some; most nodes are expressions."""
    found = [tree]
    while found:
        node = found.pop()
        yield node
        found.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, BLOCKS))


def covered(module, allowed):
    """Whether the module, or a package it is in, is allowed."""
    parts = module.split(".")
    return parts[0] in sys.stdlib_module_names or any(
        ".".join(parts[:end]) in allowed for end in range(1, len(parts) + 1)
    )


def trees(*folders):
    for path in sources(*folders):
        yield path.relative_to(ROOT), parsed(path)


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_it_may(folder):
    found = [
        f"{path}:{line} imports {module}"
        for path, tree in trees(folder)
        for line, module in imports(tree)
        if not covered(module, ALLOWED[folder])
    ]
    assert found == []
    assert len(sources(folder)) > 3


def test_cupy_is_imported_by_the_backend_alone_and_only_when_it_is_asked_for():
    backend = ROOT / "nn/backend.py"
    found = {
        path
        for path, tree in trees(*ALLOWED)
        for _, module in imports(tree)
        if module.split(".")[0] in ("cupy", "cupyx")
    }
    assert found == {backend.relative_to(ROOT)}
    at_once = {
        module
        for node in ast.parse(backend.read_text()).body
        for _, module in imports(node)
        if not isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    assert at_once.isdisjoint({"cupy", "cupyx"})


def test_cryptography_is_imported_by_the_ciphers_alone():
    found = {
        str(path)
        for path, tree in trees(*ALLOWED)
        for _, module in imports(tree)
        if module.split(".")[0] == "cryptography"
    }
    assert found == {"comm/sockets/ciphers.py"}


def unsafe(text):
    """(line, what) of everything that can run code hidden in data."""
    words = unicodedata.normalize("NFKC", text)  # as Python reads names
    if not any(word in words for word in (*UNSAFE_MODULES, *UNSAFE_NAMES, "allow_pickle")):
        return  # few files have to be parsed
    tree = ast.parse(text)
    for line, module in imports(tree):
        if module.split(".")[0] in UNSAFE_MODULES:
            yield line, module
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in UNSAFE_NAMES:
            yield node.lineno, node.attr
        elif isinstance(node, ast.Name) and node.id in UNSAFE_NAMES:
            yield node.lineno, node.id
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield from [] if is_false(node.value) else [(node.value.lineno, "allow_pickle")]


def is_false(node):
    return isinstance(node, ast.Constant) and node.value is False


def test_nothing_unpickles():
    found = [
        f"{path}:{line} {what}" for path in sources() for line, what in unsafe(path.read_text())
    ]
    assert found == []


SAMPLES = {
    "import os, pickle": ["pickle"],
    "from marshal import loads": ["marshal"],
    "def f():\n import shelve": ["shelve"],
    "import numpy.lib as pickles": [],
    "import \N{FULLWIDTH LATIN SMALL LETTER P}ickle": ["pickle"],
    "socket.recv_pyobj()": ["recv_pyobj"],
    "np.load(path, allow_pickle=True)": ["allow_pickle"],
    "np.load(path, allow_pickle=wanted)": ["allow_pickle"],
    "np.load(path, allow_pickle=False)": [],
    "'import pickle'": [],
}


@pytest.mark.parametrize("text", SAMPLES)
def test_the_search_for_it_finds_it(text):
    assert [what for _, what in unsafe(text)] == SAMPLES[text]


LOADED = {
    "comm": {"click", "rich", "safetensors", "ringlet.nn", "ringlet.runtime", "ringlet.launcher"},
    "nn": {"click", "rich", "safetensors", "ringlet.comm", "ringlet.runtime", "ringlet.launcher"},
    "runtime": {"click", "rich", "ringlet.launcher"},
}


@pytest.mark.parametrize("folder", LOADED)
def test_importing_a_folder_loads_nothing_of_those_above(folder):
    program = f"import sys, ringlet.{folder}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=60,
    ).stdout.split()
    assert f"ringlet.{folder}" in loaded
    assert LOADED[folder].isdisjoint(loaded)


ORDER = {
    "comm": [
        {"errors", "stats", "faults", "machine"},
        {"arguments", "arrays", "timeline"},
        {"signature", "objects", "task"},
        {"protocols"},
        {"schedules"},
        {"join", "shared"},
        {"sockets"},
        {"mpi"},
        {"calls"},
        {"memory"},
        {"group"},
        {"clocks"},
        {"world"},
    ],
    "nn": [
        {"mkl"},
        {"backend", "random", "memory", "caches", "files"},
        {"versions"},
        {"autograd", "safetensors", "adapter_config"},
        {"module_call", "parameter", "init", "functional", "creation"},
        {"module", "in_place"},
        {"containers"},
        {"methods", "watch", "flat", "layers"},
        {"anomaly", "summary", "finetune", "optim"},
        {"utils"},
        {"models"},
        {"torch"},
    ],
    "runtime": [
        {"mesh", "nccl"},
        {"device_collectives"},
        {"compression"},
        {"pipeline"},
        {"options", "rules"},
        {"tensor", "context"},
        {"expert"},
        {"sharding"},
        {"data"},
        {"checkpoint"},
        {"assembly"},
        {"parallel"},
        {"text"},
        {"training"},
        {"planning"},
        {"tracing"},
    ],
    "launcher": [
        {"errors", "options"},
        {"units", "supervisor"},
        {"hosts", "workers"},
        {"engines", "ray"},
        {"testing"},
        {"lessons", "notebook"},
        {"commands"},
        {"cli"},
        {"remote"},
    ],
}
"""The folders and files at the top of a house, from those that know least; equals do not know each
other."""


@pytest.mark.parametrize("house", ORDER)
def test_the_parts_of_a_house_know_only_those_below(house):
    levels = {part: level for level, parts in enumerate(ORDER[house]) for part in parts}
    found = []
    for path, tree in trees(house):
        part = path.with_suffix("").parts[1]
        for line, module in modules(tree):
            names = module.split(".")[1:]
            if names[:1] != [house] or part == "__init__" or names[1:2] in ([part], []):
                continue
            if levels[names[1]] >= levels[part]:
                found.append(f"{path}:{line} imports {module}")
    assert found == []


def modules(tree):
    """As `imports`; `from package import module` is one of the module."""
    for node in statements(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                file = ROOT.joinpath(*module.split(".")[1:])
                known = file.is_dir() or file.with_suffix(".py").exists()
                yield node.lineno, module if known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def test_no_files_import_each_other_in_a_circle():
    graph = {}
    for path, tree in trees(*ALLOWED):
        name = ".".join(["ringlet", *path.with_suffix("").parts]).removesuffix(".__init__")
        graph[name] = {module for _, module in modules(tree)} - {name}
    while leaves := {name for name, known in graph.items() if known.isdisjoint(graph)}:
        graph = {name: known for name, known in graph.items() if name not in leaves}
    assert graph == {}, f"circles among {sorted(graph)}"


def test_files_and_functions_can_be_read_at_once():
    long = []
    for path, tree in trees(*ALLOWED):
        lines = len((ROOT / path).read_text().splitlines())
        long += [f"{path}: {lines} lines"] if lines > 350 else []
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path}:{node.lineno} {node.name}")
    assert long == []
