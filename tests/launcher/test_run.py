"""What a script started by `ringlet run` finds, and what people see of its output."""

import json
import os
import socket
import textwrap
import zipfile

import pytest
from quickly import mostly_slow

from ringlet.launcher.errors import ExitCode
from ringlet.launcher.supervisor.environment import (
    ALLOCATOR,
    THREAD_VARIABLES,
    Job,
    blas_kernels,
    cores,
)

HOST = socket.gethostname()

WHO = """
    import json, os, sys
    print(json.dumps([sys.argv, sys.path[0], __name__, __file__, sys.stdin.read()]))
"""


def test_a_script_gets_its_arguments_and_its_folder(launch):
    options = ("-n", "1", "--transport", "tcp")
    given = ["-n", "7", "--help", "-x", "two words", "--", "ü", ""]
    running = launch(WHO, *given, options=options)
    code, stdout, stderr = running.end()
    assert (code, stderr) == (0, "")
    folder = str(running.folder.resolve())
    script = f"{running.folder}/script.py"
    assert json.loads(stdout) == [["script.py", *given], folder, "__main__", script, ""]


def test_a_module_gets_its_arguments(launch):
    running = launch(WHO, "-n", "7", "--version", options=("-n", "1"), program=("-m", "module"))
    code, stdout, stderr = running.end()
    assert (code, stderr) == (0, "")
    arguments, path, name, _, _ = json.loads(stdout)
    assert arguments == [str(running.folder.resolve() / "module.py"), "-n", "7", "--version"]
    assert (path, name) == (str(running.folder.resolve()), "__main__")


MAIN = """
    import atexit, os, pickle, sys, threading

    class Thing:
        pass

    def last(number):
        print(number, type(pickle.loads(pickle.dumps(Thing()))) is Thing, flush=True)

    def later():
        threading.main_thread().join()
        last(2)

    if __name__ == "__main__":
        os.chdir("/")
        print(1, os.path.exists(__file__), sys.modules["__main__"].Thing is Thing, flush=True)
        threading.Thread(target=later).start()
        atexit.register(last, 3)
"""

PROGRAMS = {
    "script": ["deep/program.py"], "link": ["link.py"], "module": ["-m", "deep.program"],
    "package": ["-m", "deep"], "folder": ["deep"], "archive": ["deep.pyz"],
}  # fmt: skip


@pytest.mark.parametrize("kind", mostly_slow(PROGRAMS, "link", "module", "archive"))
def test_main_stays_until_the_interpreter_has_ended(launch, tmp_path, kind):
    work = tmp_path / "work"
    deep = work / "deep"
    deep.mkdir()
    for path in (deep / "program.py", deep / "__main__.py"):
        path.write_text(textwrap.dedent(MAIN))
    (work / "link.py").symlink_to("deep/program.py")
    with zipfile.ZipFile(work / "deep.pyz", "w") as archive:
        archive.write(deep / "__main__.py", "__main__.py")
    *more, last = PROGRAMS[kind]
    code, stdout, stderr = launch(None, options=("-n", "1"), program=(*more, last)).end()
    assert (code, stderr) == (0, "")
    exists = str(kind != "archive")
    assert stdout == f"1 {exists} True\n2 True\n3 True\n"


def test_the_current_folder_replaces_nothing(launch, tmp_path):
    """Only the script's folder is searched: with `python sub/script.py` the current one is not."""
    (tmp_path / "work/sub").mkdir()
    for name in ("queue", "json", "numpy", "beside"):
        (tmp_path / f"work/{name}.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "work/sub/beside.py").write_text("")
    text = "import queue, json, numpy, beside, sys; print(numpy.ones(1), sys.flags.safe_path)"
    code, stdout, stderr = launch(text, options=("-n", "1"), program=("sub/script.py",)).end()
    assert (code, stdout, stderr) == (0, "[1.] False\n", "")


def test_a_module_that_is_not_there_is_named_in_one_line(launch):
    for name in ("nowhere", "os.nowhere", "json"):
        code, _, stderr = launch(None, options=("-n", "1"), program=("-m", name)).end()
        assert code == 1
        assert f"module '{name}'" in stderr
        assert "Traceback" not in stderr


def test_the_programs_own_excepthook_hears_of_the_error(launch):
    text = """
        import sys
        sys.excepthook = lambda kind, error, trace: print("mine", error, flush=True)
        raise ValueError("over the step")
    """
    code, stdout, stderr = launch(text, options=("-n", "1")).end()
    assert (code, stdout) == (1, "mine over the step\n")
    assert "ValueError: over the step" in stderr


def test_an_ssh_that_fails_ends_the_job_at_once(launch):
    """And not after --timeout, 300 s."""
    ssh = "sh -c 'echo no route >&2; exit 255' ssh"
    hosts = ("--hosts", "127.0.0.1:1,192.0.2.1:1")
    code, stdout, stderr = launch("", options=hosts, variables={"RINGLET_SSH": ssh}).end()
    assert (code, stdout) == (ExitCode.USER_ERROR, "")
    for text in ("no route", "host 1 cannot come", "ssh to 192.0.2.1 failed"):
        assert text in stderr


def test_safe_path_stays_safe(launch):
    """With PYTHONSAFEPATH Python leaves the script's folder out; nothing else may go for it."""
    variables = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(["/first", *_path()])}
    code, stdout, stderr = launch(WHO, options=("-n", "1"), variables=variables).end()
    assert code == 0, stderr
    assert json.loads(stdout)[1] == "/first"


def _path():
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


VARIABLES = """
    import json, os, time
    for name in sorted(os.environ):
        if name.isupper():
            print(json.dumps([name, os.environ[name]]))
"""


def variables_by_rank(stdout, size):
    found = [{} for _ in range(size)]
    for line in stdout.splitlines():
        host, rank, text = line.split(":", 2)
        assert host == HOST
        name, value = json.loads(text)
        found[int(rank)][name] = value
    return found


def test_torchruns_variables_are_there(launch):
    size = 3
    code, stdout, stderr = launch(VARIABLES, options=("-n", str(size), "--timeout", "77")).end()
    assert code == 0, stderr
    found = variables_by_rank(stdout, size)
    for rank, variables in enumerate(found):
        assert variables["RANK"] == variables["LOCAL_RANK"] == str(rank)
        assert variables["WORLD_SIZE"] == variables["LOCAL_WORLD_SIZE"] == str(size)
        assert variables["MASTER_ADDR"] == "127.0.0.1"
        assert float(variables["RINGLET_TIMEOUT"]) == 77
        assert {variables[name] for name in THREAD_VARIABLES} == {str(max(1, cores() // size))}
        assert "RINGLET_CONTROL_FD" not in variables
    assert len({variables["MASTER_PORT"] for variables in found}) == 1
    assert len({variables["RINGLET_JOB"] for variables in found}) == 1


def test_freed_memory_is_kept_unless_the_user_has_told_the_allocator_otherwise(
    monkeypatch, tmp_path
):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert Job(2, folder=tmp_path).environment(0).items() >= ALLOCATOR.items()
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "2")
    assert not ALLOCATOR.keys() & Job(2, folder=tmp_path).environment(0).keys()


def test_blas_threads_that_the_user_has_set_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = Job(2, folder=tmp_path).environment(0)
    assert environment["OPENBLAS_NUM_THREADS"] == "5"
    assert environment["OMP_NUM_THREADS"] == str(max(1, cores() // 2))


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "kernels"),
    [
        ("AuthenticAMD", 25, "avx2 avx512f avx512bw", {"OPENBLAS_CORETYPE": "Zen"}),
        ("AuthenticAMD", 25, "avx2 avx512_not_f", {}),  # Zen 3
        ("AuthenticAMD", 26, "avx2 avx512f", {}),  # Zen 5, with 25 for its model
        ("GenuineIntel", 25, "avx2 avx512f", {}),
    ],
)
def test_blas_kernels_follow_the_kind_of_processor(vendor, family, flags, kernels, tmp_path):
    said = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 25\n"
    (tmp_path / "cpuinfo").write_text(f"{said}flags\t\t: fpu {flags}\n\nprocessor\t: 1\n")
    assert blas_kernels(tmp_path / "cpuinfo") == kernels
    assert blas_kernels(tmp_path / "missing") == {}


def test_a_job_is_private_and_like_no_other(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = Job(2), Job(2)
    assert first.job != second.job
    assert first.folder.stat().st_mode & 0o777 == 0o700
    (first.folder / "0.inbox").touch()
    first.clean()
    second.clean()
    second.clean()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_ranks_meet(launch, transport):
    text = """
        import numpy as np
        from ringlet import comm
        world = comm.init()
        print(world.rank, world.size, world.all_reduce(np.ones(1))[0])
    """
    code, stdout, stderr = launch(text, options=("-n", "3", "--transport", transport)).end()
    assert (code, stderr) == (0, "")
    assert sorted(stdout.splitlines()) == [f"{HOST}:{r}: {r} 3 3.0" for r in range(3)]


def test_every_line_of_every_rank_arrives_whole(launch):
    text = """
        import sys
        for number in range(5000):
            print("out", number)
            print("err", number, file=sys.stderr)
    """
    code, stdout, stderr = launch(text).end()
    assert code == 0
    for name, lines in (("out", stdout.splitlines()), ("err", stderr.splitlines())):
        for rank in range(2):
            head = f"{HOST}:{rank}: "
            own = [line.removeprefix(head) for line in lines if line.startswith(head)]
            assert own == [f"{name} {number}" for number in range(5000)]
        assert len(lines) == 10_000


BROKEN = """
    import os, time
    from pathlib import Path
    text = "naïve 日本\\n".encode()
    os.write(1, text[:3])           # in the midst of a character
    while not Path("shown").exists():
        time.sleep(0.02)
    os.write(1, text[3:])
    os.write(1, b"bad \\xff byte\\n")
    os.write(1, b"question? ")
    while not Path("answered").exists():
        time.sleep(0.02)
    os.write(1, b"no newline")
"""


@pytest.mark.parametrize(("size", "head"), [(1, ""), (2, f"{HOST}:0: ")])
def test_partial_lines_and_characters(launch, size, head):
    running = launch(BROKEN, options=("-n", str(size)))
    lines = []
    for line in running.process.stdout:
        lines.append(line)
        if line == f"{head}na\n":  # shown before there is a newline
            (running.folder / "shown").touch()
        if "question" in line:
            break
    (running.folder / "answered").touch()
    code, stdout, _ = running.end()
    assert code == 0
    own = [line for line in [*lines, *stdout.splitlines(keepends=True)] if line.startswith(head)]
    assert own == [
        f"{head}na\n",
        f"{head}ïve 日本\n",
        f"{head}bad \ufffd byte\n",
        f"{head}question? \n",
        f"{head}no newline\n",
    ]


LOCALES = {
    "UTF-8": ({"PYTHONIOENCODING": "utf-8"}, "café ↓ \ufffd".encode()),
    "Latin-1": ({"PYTHONIOENCODING": "latin-1"}, "café \\u2193 ÿ".encode("latin-1")),
    "ASCII": ({"PYTHONIOENCODING": "ascii"}, b"caf\\xe9 \\u2193 \\ufffd"),
    "C": ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
          b"caf\\xe9 \\u2193 \\ufffd"),
}  # fmt: skip


@pytest.mark.parametrize("case", mostly_slow(LOCALES, "Latin-1", "C"))
def test_whatever_workers_print_the_launcher_survives(launch, case):
    variables, expected = LOCALES[case]
    text = """
        import os
        os.write(1, "café ↓ ".encode() + b"\\xff\\n")  # whatever the locale
    """
    running = launch(text, options=("-n", "1"), variables=variables)
    stdout = running.process.stdout.buffer.read()
    assert running.end()[0] == 0
    assert stdout == expected + b"\n"


def test_a_reader_that_goes_away_ends_the_job(launch):
    text = """
        import os
        from pathlib import Path
        Path(f"pid{os.environ['RANK']}").write_text(f"{os.getpid()}\\n")
        while True:
            print("line")
    """
    running = launch(text)
    pids = [running.number(f"pid{rank}") for rank in range(2)]
    running.process.stdout.readline()
    running.process.stdout.close()
    assert running.ended_within(5)
    assert running.process.returncode != 0
    assert running.gone(pids)
    running.process.stdout = None


FORGED = """
    import os
    print("ringlet-agent-0-listens-at 127.0.0.1:9")
    print(os.environ.get("RINGLET_LISTENING"), "127.0.0.1:9", flush=True)
    from ringlet import comm
    comm.init().barrier()
    print("met")
"""


def test_what_workers_print_is_never_taken_for_the_launchers_own_words(launch):
    options = ("--hosts", "127.0.0.1:1,localhost:1", "--no-prefix", "--timeout", "20")
    code, stdout, stderr = launch(FORGED, options=options).end()
    assert (code, stderr) == (0, "")
    printed = ["ringlet-agent-0-listens-at 127.0.0.1:9", "None 127.0.0.1:9", "met"]
    assert sorted(stdout.splitlines()) == sorted(printed * 2)
