"""Cells that run on ranks: `%%ranks 4`."""

import os
import signal
import sys
import tempfile
import textwrap
import threading

import numpy as np
import pytest
from processes import pids, variables
from waiting import until

from ringlet.launcher.notebook import CellFailed, CellInterrupted, run_on_ranks


def run(source, size, **names):
    run_on_ranks(textwrap.dedent(source), size, {"np": np, "__name__": "__main__", **names})


def test_a_cell_runs_on_ranks_and_each_line_says_which(capfd):
    names = {"np": np, "scale": 2}
    source = "total = world.all_reduce(np.full(1, world.rank + 1.0))\nprint(total)\nscale * total"
    run_on_ranks(source, 3, names)
    out, err = capfd.readouterr()
    lines = [f"rank {rank}: {text}" for rank in range(3) for text in ("[6.]", "array([12.])")]
    assert (sorted(out.splitlines()), err) == (lines, "")
    assert names.keys() == {"np", "scale"}  # what ranks make is theirs
    run("world.size;", 1)
    run("import sys; print('to stderr', file=sys.stderr)", 1)
    assert capfd.readouterr() == ("", "rank 0: to stderr\n")


FAILURES = {
    "the first failure": (
        "x = 1\nif world.rank == 1:\n    x / 0\nworld.barrier()",
        r'rank 1: Traceback \(most recent call last\):\n  File "<ranks \d+>", line 3, in <module>\n'
        r"    x / 0\n.*ZeroDivisionError: division by zero\n\(1 other rank failed, too\)\Z",
    ),
    "a wrong syntax": (
        "for x in",
        r'\A  File "<ranks \d+>", line 1\n.*SyntaxError: invalid syntax\Z',
    ),
    "an end": ("import os\nos._exit(3)", "exited with code 3"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_failed_first_is_shown_alone(case):
    source, expected = FAILURES[case]
    with pytest.raises(CellFailed, match=f"(?s){expected}") as caught:
        run(source, 2)
    assert "notebook.py" not in str(caught.value)
    assert caught.value._render_traceback_() == str(caught.value).splitlines()


FOREVER = "world.recv(src=1 - world.rank)"


def test_what_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    told, ranks = [], []

    class Shown:
        """Stands in for stdout: when both ranks have written, Ctrl-C is pressed three times."""

        def write(self, text):
            told.append(text)
            ranks.append(int(text.split()[-1]))
            if len(ranks) == 2:
                for _ in range(3):
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Shown())
    with pytest.raises(CellInterrupted, match="interrupted: the 2 ranks were ended"):
        run(f"import os; print(os.getpid())\n{FOREVER}", 2)
    monkeypatch.undo()
    assert len(ranks) == 2
    for pid in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert list(tmp_path.iterdir()) == []
    run("world.barrier()", 2)  # and the next cell runs


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """A kernel as Jupyter starts it; `kernel(code, when="text")` runs a cell, and interrupts it
    once it has printed that. Returns all that it prints, and its error."""
    manager = pytest.importorskip("jupyter_client.manager", reason="pip install 'ringlet[test]'")
    pytest.importorskip("ipykernel", reason="pip install 'ringlet[test]'")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    running, client = manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path))

    def cell(code, when=None):
        number, printed, error = client.execute(code), "", ""
        while True:
            message = client.get_iopub_msg(timeout=60)
            content = message["content"]
            assert message["parent_header"]["msg_id"] == number, message
            if message["msg_type"] == "stream":
                printed += content["text"]
                if when is not None and when in printed:
                    running.interrupt_kernel()
                    when = None
            elif message["msg_type"] == "error":
                error = "\n".join(content["traceback"])
            elif content.get("execution_state") == "idle":
                client.get_shell_msg(timeout=60)
                return printed, error

    yield cell
    client.stop_channels()
    running.shutdown_kernel(now=True)


@pytest.mark.slow
def test_in_jupyters_kernel(kernel, tmp_path):
    assert kernel("%load_ext ringlet.launcher.notebook\nimport os, time") == ("", "")
    before = sorted(path.name for path in tmp_path.iterdir())
    printed, error = kernel("%%ranks 2\nworld.all_gather(np.array([world.rank])).tolist()")
    assert "NameError: name 'np' is not defined" in error
    kernel("import numpy as np\nfrom ringlet import comm\nworld = comm.init()")
    printed, error = kernel("%%ranks 2\nworld.all_gather(np.array([world.rank])).tolist()")
    assert error == ""
    assert sorted(printed.splitlines()) == ["rank 0: [[0], [1]]", "rank 1: [[0], [1]]"]
    printed, error = kernel("%%ranks 2\nfrom IPython.display import display\ndisplay(world.rank)")
    assert sorted(printed.splitlines()) == ["rank 0: 0", "rank 1: 1"]
    assert kernel("%%ranks none\n1")[1] == (
        "%%ranks takes a number of ranks, 1 to 64, as in %%ranks 4"
    )
    for wait in (FOREVER, "while True: pass", "time.sleep(60)"):
        printed, error = kernel(f"%%ranks 2\nprint('begun')\n{wait}", when="begun")
        assert error == "interrupted: the 2 ranks were ended"
    assert kernel("%%ranks 2\nprint(os.getppid())")[1] == ""
    mine = str(tmp_path)
    kernels = [pid for pid in pids() if variables(pid).get("TMPDIR") == mine]
    assert len(kernels) == 1, "a rank is left"
    assert until(lambda: sorted(path.name for path in tmp_path.iterdir()) == before)
    assert kernel("world.size")[1] == ""
