"""The simulator against the 1,549 iteration times that vTrain's authors measured on A100s.

    python benchmarks/vtrain.py PATH... [--rows]

The files are ground_truth_single.csv and ground_truth_multi.csv of github.com/VIA-Research/vTrain
(MIT licence), folder data: Megatron-DeepSpeed, all blocks recomputed, 1F1B. The machine is the
shipped description "a100"; no constant belongs to a row.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

from ringlet.runtime import Parallelism, Setting, load_cluster, simulate
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.models import gpt
from ringlet.runtime.planning.setting import MEGATRON

VOCABULARY = 50257
FIELDS = [
    "ranks", "batch", "micro_batch", "width", "heads", "layers", "context", "tp", "dp", "pp",
    "milliseconds",
]  # fmt: skip


def rows_of(path):
    """Each row by name; the multi-node file has the size in billions before the other columns."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        for row in list(csv.reader(file))[1:]:
            numbers = row[-len(FIELDS) :]
            yield {
                name: float(number) if name == "milliseconds" else int(number)
                for name, number in zip(FIELDS, numbers, strict=True)
            }


def predicted(row, fabric):
    """Seconds of a row's step."""
    model = gpt(
        "vtrain", row["layers"], row["width"], row["heads"],
        vocabulary=-(-VOCABULARY // (128 * row["tp"])) * 128 * row["tp"],  # Megatron pads it
        context=row["context"],
    )  # fmt: skip
    setting = Setting(
        {axis: row[axis] for axis in ("tp", "dp", "pp")},
        batch=row["batch"],
        micro_batch=row["micro_batch"],
        options=Parallelism(recompute=("blocks",)),
        program=MEGATRON,
    )
    return simulate(model, fabric.cluster, setting, fabric=fabric).seconds


def errors(path, fabric):
    """(relative error, row) of every row of a file."""
    return [
        (predicted(row, fabric) / (row["milliseconds"] / 1e3) - 1, row) for row in rows_of(path)
    ]


def summary(found):
    """Mean, median and worst error, in words."""
    sizes = sorted(abs(error) for error, _ in found)
    bias = statistics.mean(error for error, _ in found)
    return (
        f"{len(found):5} rows: mean |error| {statistics.mean(sizes):6.1%}, median "
        f"{statistics.median(sizes):6.1%}, worst {sizes[-1]:6.1%}, bias {bias:+6.1%}"
    )


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="+")
    parser.add_argument("--cluster", default="a100")
    parser.add_argument("--rows", action="store_true", help="print every row")
    given = parser.parse_args()
    fabric = Fabric(load_cluster(given.cluster))
    for path in given.path:
        started = time.perf_counter()
        found = errors(path, fabric)
        print(f"{path} ({time.perf_counter() - started:.0f} s)")
        for width in sorted({row["width"] for _, row in found}):
            print(f"  width {width:6}", summary([one for one in found if one[1]["width"] == width]))
        print(f"  {'all':12}", summary(found))
        for error, row in found if given.rows else ():
            print(f"  {error:+7.1%}", *(f"{name}={value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
