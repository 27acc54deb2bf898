"""What watching costs a training: steps beside no reader, `ringlet watch`, and pages with readers.

    python benchmarks/watch.py --readers 1 50

The same run is started `--rounds` times in turns for each way of watching. Reported is the median
of a step's seconds over all rounds, without the first steps of each, and that relative to the run
that nobody watches. The readers are one process, at the lowest priority: on a host of their own,
they would not be here at all.
"""

import argparse
import contextlib
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RINGLET = [sys.executable, "-c", "from ringlet.launcher.cli import main; main()"]
WARM = 20


@contextlib.contextmanager
def watching(folder, way):
    """Watch the run in some way while the block runs."""
    if way == "nobody":
        yield
        return
    page = [] if way == "watch" else ["--http", "0"]
    command = [*RINGLET, "watch", str(folder), *page]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        readers = None
        if page:
            found = (re.search(r"http://\S+", line) for line in watch.stdout)
            address = next(filter(None, found))[0]
            script = [sys.executable, __file__, "--follow", address, way]
            readers = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
            assert readers.stdout.readline() == "reading\n"
        try:
            yield
        finally:
            for process in filter(None, (readers, watch)):
                process.kill()
                process.wait()


def follow(address, count):
    """Be so many readers."""
    os.nice(19)
    port, path = re.fullmatch(r"http://127.0.0.1:(\d+)(/\S+)", address).groups()
    selector = selectors.DefaultSelector()
    for _ in range(count):
        reader = socket.create_connection(("127.0.0.1", int(port)))
        reader.sendall(f"GET {path}events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert reader.recv(1 << 16).startswith(b"HTTP/1.1 200")
        selector.register(reader, selectors.EVENT_READ)
    print("reading", flush=True)
    while True:
        for key, _ in selector.select():
            assert key.fileobj.recv(1 << 20), "a reader was dropped"


def measured(options, way):
    """Seconds of the steps of one run."""
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "run")
        facts = {
            "preset": options.preset, "workers": options.ranks, "steps": options.steps,
            "eval-every": options.steps, "eval-windows": 1, "checkpoint-every": options.steps,
            "sample": 0, "out": folder,
        }  # fmt: skip
        command = [*RINGLET, "train", *(f"--{name}={value}" for name, value in facts.items())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
            while run.poll() is None and not (folder / "metrics.jsonl").exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(0.02)
            with watching(folder, way):
                output, _ = run.communicate()
            assert run.returncode == 0, output
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [row["step_s"] for row in rows if row["step"] > WARM]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="nano", help="default: %(default)s")
    parser.add_argument("--ranks", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 50], help="of a page")
    parser.add_argument("--follow", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.follow:
        follow(options.follow[0], int(options.follow[1]))
    seconds = {way: [] for way in ("nobody", "watch", *map(str, options.readers))}
    for _ in range(options.rounds):
        for way, found in seconds.items():
            found += measured(options, way)
    alone = statistics.median(seconds["nobody"])
    for way, found in seconds.items():
        median = statistics.median(found)
        name = {"nobody": "nobody watches", "watch": "ringlet watch"}.get(way, f"{way} readers")
        print(f"{name:16} {median * 1e3:7.2f} ms a step ({median / alone - 1:+.2%})")


if __name__ == "__main__":
    main()
