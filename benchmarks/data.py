"""Text into tokens: `ringlet data build`, `datasets`' map, and a script as nanoGPT's prepare.

    python benchmarks/data.py [--mb 200] [--runs 3] [--only ringlet ...]

In turns all make ids of the same JSON lines by the same tokenizer.json, on as many processors, each
in fresh processes. `datasets` maps batches by `encode_batch` in several processes and saves Arrow
files; prepare maps one document after the other, as nanoGPT's data/openwebtext/prepare.py does, and
writes the ids into one memory-mapped .bin. MB are of UTF-8 text. The peak is of all processes
together: memory that they share counts once (Pss), looked at ten times a second. The files of ids
are compared: all must hold the same. Needs `pip install datasets`, or ringlet is measured alone.
"""

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CPUS = len(os.sched_getaffinity(0))
END = "<|endoftext|>"

RINGLET = """
from ringlet.launcher.cli import main
main("data build text.jsonl --tokenizer tokenizer.json --out ringlet".split())
"""

COMMON = f"""
import os, sys
import numpy as np
from datasets import load_dataset
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file("tokenizer.json")
end = tokenizer.token_to_id("{END}")
texts = load_dataset("json", data_files="text.jsonl", split="train", cache_dir="cache")
"""

DATASETS = f"""{COMMON}
os.environ["TOKENIZERS_PARALLELISM"] = "false"
def encode(batch):
    return {{"ids": [each.ids + [end] for each in tokenizer.encode_batch(batch["text"])]}}
made = texts.map(encode, batched=True, num_proc={CPUS}, remove_columns=["text"])
made.save_to_disk("datasets")
"""

PREPARE = f"""{COMMON}
def process(example):
    ids = tokenizer.encode(example["text"]).ids
    ids.append(end)
    return {{"ids": ids, "len": len(ids)}}
made = texts.map(process, remove_columns=["text"], num_proc={CPUS})
length = np.sum(made["len"], dtype=np.uint64)
array = np.memmap("prepare.bin", np.uint16, "w+", shape=(int(length),))
count, at = min(1024, len(made)), 0
for index in range(count):
    batch = made.shard(num_shards=count, index=index, contiguous=True).with_format("numpy")
    part = np.concatenate(batch["ids"])
    array[at : at + len(part)] = part
    at += len(part)
array.flush()
"""

CASES = {"ringlet": RINGLET, "datasets": DATASETS, "prepare": PREPARE}


def make_text(path, nbytes):
    """JSON lines of this many bytes of text: Python's library and documentation, in random order
    and in parts, so that no document is there twice."""
    from pydoc_data import topics

    files = sorted(Path(os.__file__).parent.rglob("*.py"))
    texts = [
        file.read_text("utf-8", "ignore") for file in files if "site-packages" not in file.parts
    ]
    texts = [text for text in [*texts, *topics.topics.values()] if text.strip()]
    chance, size = random.Random(1), 0
    with path.open("w", encoding="utf-8") as file:
        while size < nbytes:
            text = chance.choice(texts)
            start = chance.randrange(len(text))
            text = text[start : start + chance.randrange(200, 40_000)]
            size += len(text.encode())
            file.write(json.dumps({"text": text}) + "\n")
    return size


def memory_of(group):
    """Bytes of the processes of a process group."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(x.split()[1]) for x in lines if x.startswith("Pss:")) * 1024
        except (OSError, StopIteration):
            continue
    return total


def run(program, folder):
    """Seconds, seconds of all processors, and the peak of memory of a program in a folder."""
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    before, started = used(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(process.stderr.read().decode())
    return seconds, used() - before, peak


def used():
    """Seconds that processors have worked for programs that have ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def ids_of(case, folder):
    """All ids that a case has made, in order."""
    if case == "ringlet":
        return np.concatenate(
            [np.fromfile(x, "<u2") for x in sorted((folder / case).glob("shard*"))]
        )
    if case == "prepare":
        return np.fromfile(folder / "prepare.bin", np.uint16)
    from datasets import load_from_disk

    column = load_from_disk(str(folder / case)).with_format("arrow")[:]["ids"]
    parts = [chunk.values.slice(chunk.offsets[0].as_py()) for chunk in column.chunks]
    return np.concatenate([part.to_numpy().astype(np.uint16) for part in parts])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    options = parser.parse_args()
    cases = [case for case in CASES if case in options.only]
    if importlib.util.find_spec("datasets") is None:
        print("datasets is not installed: ringlet alone")
        cases = ["ringlet"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make_text(folder / "text.jsonl", options.mb * 10**6)
        from ringlet.runtime.text.training import train_tokenizer

        lines = (folder / "text.jsonl").open(encoding="utf-8")
        texts = (json.loads(line)["text"] for line, _ in zip(lines, range(500), strict=False))
        train_tokenizer(texts, 8192, folder / "tokenizer.json")
        found = {case: [] for case in cases}
        for number in range(options.runs):
            for case in cases:
                for left in (case, "cache", "home"):
                    shutil.rmtree(folder / left, ignore_errors=True)
                found[case].append(run(CASES[case], folder))
            if not number:
                whole = ids_of(cases[0], folder)
                assert all(np.array_equal(ids_of(case, folder), whole) for case in cases)
                text = f"{size / 1e6:.0f} MB, {len(whole):,} tokens"
                print(f"{text}, the same by all; {CPUS} processors")
        print("| | seconds | MB/s | processor seconds | peak |\n|---|---|---|---|---|")
        for case, runs in found.items():
            seconds, busy, _ = np.median(runs, axis=0)
            peak, speed = max(peak for *_, peak in runs), size / 1e6 / seconds
            figures = f"{seconds:.1f} | {speed:.2f} | {busy:.1f} | {peak / 2**20:.0f} MiB"
            print(f"| {case} | {figures} |")


if __name__ == "__main__":
    main()
