"""A model of bytes beside one of tokens, on the same text and for the same time: bits per byte.

    python benchmarks/bpe.py --seconds 300 --out docs/pictures/bpe.svg

The text is Python's: its documentation (pydoc) and the sources of its standard library. Both models
have the same blocks and learning rate, and warm up for a twentieth of their steps. How many steps
fit into the time is measured first, so that the learning rate of both ends at the end of it.
Validation is not in the time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from ringlet.comm.schedules import svg
from ringlet.comm.schedules.lines import WIDTH, Line, panel

RINGLET = [sys.executable, "-m", "ringlet"]
MODEL = [
    "--n-layer", "4", "--n-head", "6", "--n-embd", "192", "--batch-size", "8",
    "--learning-rate", "2e-3", "--eval-windows", "64", "--sample", "0", "--keep", "1",
]  # fmt: skip
TRIED = 24
"""Steps from which the time of one is taken, after as many to warm up."""


def texts(folder):
    """The text as files of a folder; its name."""
    from pydoc_data import topics

    folder.mkdir()
    for name, text in sorted(topics.topics.items()):
        (folder / f"topic-{name.replace('/', '-')}.txt").write_text(text)
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("*.py")):
        (folder / f"library-{path.stem}.txt").write_bytes(path.read_bytes())
    return folder


def ringlet(*words):
    """Run a command."""
    subprocess.run([*RINGLET, *map(str, words)], check=True)


def rows(out):
    """What a run has measured."""
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


def trained(data, out, seconds, options):
    """[(seconds, bits per byte)] of a run that takes so long."""
    how = ["--data", data, *MODEL, *options]
    trial = out.with_name(f"{out.name}-trial")
    some = ["--steps", 2 * TRIED, "--eval-every", 10**6, "--warmup-steps", 1]
    ringlet("train", *how, *some, "--out", trial, "--quiet")
    step = statistics.median(row["step_s"] for row in rows(trial)[-TRIED:])
    steps = max(20, round(seconds / step))
    course = ["--steps", steps, "--eval-every", max(1, steps // 12), "--warmup-steps", steps // 20]
    ringlet("train", *how, *course, "--out", out)
    found, spent = [], 0.0
    for row in rows(out):
        spent += row.get("step_s", 0.0)
        if "val_bits_per_byte" in row:
            found.append((spent, row["val_bits_per_byte"]))
    return found


def main():
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300, help="of training, for each")
    parser.add_argument("--tokens", type=int, default=4096, help="of the tokenizer")
    parser.add_argument("--out", type=Path, help="an SVG of bits per byte over time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = texts(folder / "texts")
        ringlet("data", "build", source, "--train-tokenizer", given.tokens, "--out", folder / "t")
        whole = folder / "text.txt"
        whole.write_bytes(b"\n".join(path.read_bytes() for path in sorted(source.iterdir())))
        contexts = {"bytes": ("256", whole), f"{given.tokens} tokens": ("128", folder / "t")}
        found = {
            kind: trained(data, folder / kind, given.seconds, ["--block-size", size])
            for kind, (size, data) in contexts.items()
        }
    for kind, points in found.items():
        print(f"{kind:12} {points[-1][1]:.3f} bits per byte after {points[-1][0]:.0f} s")
    if given.out:
        lines = [Line(kind, *zip(*points, strict=True)) for kind, points in found.items()]
        drawn, height = panel("bits per byte", lines, "seconds", target=found["bytes"][-1][1])
        given.out.write_text(svg.document("bits per byte over seconds", WIDTH, height, drawn))


if __name__ == "__main__":
    main()
