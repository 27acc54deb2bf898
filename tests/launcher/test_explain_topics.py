"""`ringlet explain TOPIC`: pictures of a training step, from the code that runs."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import outcome

from ringlet.launcher.commands.explain.group import TOPICS
from ringlet.launcher.commands.plan.tables import gigabytes
from ringlet.runtime.options import Parallelism
from ringlet.runtime.planning.footprint import footprints
from ringlet.runtime.planning.models import MODELS
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.training.config import make_config
from ringlet.runtime.training.rehearsal import Rehearsal

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
WIDE = ["--model", "tiny", "--n-head", "16"]
CASES = {
    "memory": ["--model", "llama-7b", "--mesh", "tp=2,pp=8", "--accumulate", "16"],
    "tensor": [*WIDE, "-n", "16"],
    "sequence": [*WIDE, "-n", "16"],
    "context": ["-n", "16"],
    "experts": ["--model", "tiny", "-n", "16"],
    "zero": ["--model", "tiny", "-n", "16"],
    "accumulation": ["--model", "tiny", "-n", "16"],
    "compression": ["--model", "tiny", "-n", "16", "--compress", "int8"],
    "overlap": ["--model", "tiny", "-n", "16", "--cluster", "selene"],
}
"""Each on 16 ranks."""


def explain(capsys, *arguments):
    """Exit code, stdout, stderr of `ringlet explain arguments...`."""
    return outcome(capsys, "explain", *arguments)


PLANNED = {}
"""The text of the plan, once it is made."""


@pytest.fixture
def plan_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if not PLANNED:
        page = (ROOT / "docs/how-to/planning.md").read_text(encoding="utf-8")
        (command,) = re.findall(r"^ringlet (plan .*gpt-1.7b.* plan\.toml)$", page, re.MULTILINE)
        assert outcome(capsys, *command.split())[0] == 0
        PLANNED["text"] = Path("plan.toml").read_text()
    Path("plan.toml").write_text(PLANNED["text"])
    return "plan.toml"


def check_picture(text):
    """It is well formed and small, dark on a dark page, and no two texts touch or stick out."""
    assert len(text) < 300_000
    assert "prefers-color-scheme:dark" in text
    root = ElementTree.fromstring(text)
    width, height = float(root.get("width")), float(root.get("height"))
    lines = {}
    for group in [root, *root.iter(f"{SVG}g")]:
        for each in group.findall(f"{SVG}text"):
            size = float(each.get("font-size") or group.get("font-size"))
            at = each.get("text-anchor") or group.get("text-anchor")
            long = 0.55 * size * len(each.text)
            start = float(each.get("x")) - long * {"middle": 0.5, "end": 1.0}.get(at, 0.0)
            assert 0 <= start <= start + long <= width, each.text
            assert 0 < float(each.get("y")) < height
            lines.setdefault(each.get("y"), []).append((start, start + long, each.text))
    for texts in lines.values():
        texts.sort()
        for (_, stop, one), (start, _, other) in pairwise(texts):
            assert stop <= start, (one, other)


@pytest.mark.parametrize("topic", CASES)
def test_a_topic_on_16_ranks(topic, capsys, tmp_path):
    path = tmp_path / "picture.svg"
    code, out, err = explain(capsys, topic, *CASES[topic], "--svg", str(path))
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    check_picture(path.read_text())


def test_tables(capsys):
    code, out, _ = explain(capsys, "memory", "--model", "tiny", "--table")
    assert code == 0
    assert "##" not in out
    parts = [line.split() for line in out.splitlines() if line.lstrip().startswith("param")]
    assert parts[-1] == ["parameters", "gradients", "optimizer", "activations", "buffers"]
    code, out, _ = explain(capsys, "context", "-n", "64", "--table")
    assert code == 0
    assert out.count("chunk") >= 128
    assert max(map(len, out.splitlines())) <= 100


def test_help_lists_every_topic_in_a_line(capsys):
    for words in ([], ["--help"]):
        code, out, _ = explain(capsys, *words)
        assert code == 0
        for topic in TOPICS:
            line = re.escape(topic.help.splitlines()[0])
            assert re.search(rf"^  {topic.name} +{line}$", out, re.M)


def test_a_plan(plan_file, capsys, tmp_path):
    code, out, _ = explain(capsys, "plan", plan_file, "--svg", "plan.svg")
    assert code == 0
    check_picture((tmp_path / "plan.svg").read_text())
    code, out, _ = explain(capsys, "plan", plan_file, "--table")
    # Two chunks on each of four ranks: blocks 0 to 2 and 12 to 14 on the first.
    assert re.search(r"^rank 0 +3 +3 +6 blocks$", out, re.M)
    assert "8 micro-batches of 1 each" in out


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("accumulate = 8", "accumulate = 7", "pp=4 with 7 micro-batches does not fit 4 ranks"),
        ('"pp=4"', '""', "dp=1 with 8 micro-batches does not fit 4 ranks"),
        ("blocks = 24", "blocks = 3", "the stages have 24 blocks, and the model 3"),
        ('"interleaved"', '"spiral"', "unknown schedule 'spiral'"),
    ],
)
def test_a_plan_that_contradicts_itself(old, new, expected, plan_file, capsys, tmp_path):
    text = (tmp_path / plan_file).read_text()
    assert old in text
    (tmp_path / plan_file).write_text(text.replace(old, new))
    code, out, err = explain(capsys, "plan", plan_file)
    assert (code, out) == (2, "")
    assert f"{plan_file}: {expected}" in err


def test_memory_is_what_plans_count_with(capsys):
    _, out, _ = explain(
        capsys, "memory", "--model", "llama-7b", "--mesh", "dp=2,pp=2", "--zero", "1", "--table"
    )
    plain, again = (
        footprints(
            MODELS["llama-7b"],
            Setting({"dp": 2, "pp": 2}, 2, options=Parallelism(zero=1, recompute=recompute)),
        )
        for recompute in ((), ("blocks",))
    )
    rows = re.findall(r"^ranks (?:0-1|2-3) .*$", out, re.M)
    for row, each in zip(rows, (*plain, *again), strict=True):
        for part in ("parameters", "gradients", "optimizer", "activations", "buffers", "total"):
            assert gigabytes(getattr(each, part)) in row


def test_a_block_has_the_papers_collectives(capsys):
    """Shoeybi et al. 2019: two all-reduces each way; Korthikanti et al. 2022: all-gathers and
    reduce-scatters in their place. Backward gathers the inputs again."""
    _, out, _ = explain(capsys, "tensor", "--model", "tiny", "-n", "2", "--table")
    assert "2 all-reduce forward, 2 all-reduce backward" in " ".join(out.split())
    assert re.search(
        r"^attn.c_attn.weight 192x64 +0-31 +32-63 +output features of each of 3", out, re.M
    )
    assert re.search(r"^mlp.c_proj.weight 64x256 +0-127 +128-255 +input features$", out, re.M)
    assert re.search(r"^ln_1.weight 64 +all +all$", out, re.M)
    _, out, _ = explain(capsys, "sequence", "--model", "tiny", "-n", "2", "--table")
    words = " ".join(out.split())
    forward, backward = "2 all-gather + 2 reduce-scatter", "4 all-gather + 2 reduce-scatter"
    assert f"With sequence parallelism: {forward} forward, {backward} backward" in words


def test_every_score_of_ring_attention_is_computed_once(capsys):
    _, out, _ = explain(capsys, "context", "-n", "4", "--table")
    rows = re.findall(r"^rank (\d), chunk (\d) +(.*?)$", out, re.M)
    assert len(rows) == 8
    work = {}
    for rank, chunk, cells in rows:
        cells = cells.split()
        assert [cell != "." for cell in cells] == [n <= int(chunk) for n in range(8)]
        for cell in cells[: int(chunk) + 1]:
            key = rank, cell.rstrip("\\")
            work[key] = work.get(key, 0) + (1 if cell.endswith("\\") else 2)
    assert set(work.values()) == {4}  # two cells in each step, a half-masked one counts as a half
    assert len(work) == 16


def test_zero_holds_two_blocks_at_a_time(capsys):
    _, out, _ = explain(capsys, "zero", "--model", "nano", "-n", "4", "--n-layer", "6", "--table")
    blocks = [line.split() for line in out.splitlines() if line.startswith("transformer.h.")]
    assert len(blocks) == 12
    parameters, gradients = blocks[:6], blocks[6:]
    for moment in range(1, 13):
        here = [row[moment] for row in parameters]
        assert 1 <= 6 - here.count("1/4") <= 2
        assert here[moment - 1 if moment <= 6 else 12 - moment] == "all"
        assert [row[moment] for row in gradients].count("sum") <= 2
    _, out, _ = explain(capsys, "zero", "--model", "tiny", "-n", "2", "--zero", "1", "--table")
    assert "gather" not in out


@pytest.mark.parametrize(("zero", "passes"), [(0, 1), (2, 4)])
def test_when_accumulated_gradients_travel(zero, passes, capsys):
    _, out, _ = explain(
        capsys, "accumulation", "--model", "tiny", "-n", "2", "--zero", str(zero), "--table"
    )
    (row,) = re.findall(r"^collectives .*$|^(?:B3|F0) .*$", out, re.M)[:1]
    assert row.count("KiB") + row.count("MiB") == passes


def test_rows_reach_their_experts(capsys):
    _, out, _ = explain(
        capsys, "experts", "--model", "tiny", "-n", "2", "--experts", "4", "--table"
    )
    sent = sum(map(int, re.findall(r"^rank \d .* (\d+) rows, \d+ dropped$", out, re.M)))
    lost = sum(map(int, re.findall(r" (\d+) dropped$", out, re.M)))
    received = sum(map(int, re.findall(r"^expert \d .* (\d+) rows, \d+ empty$", out, re.M)))
    assert sent == received
    assert sent + lost == 8 * 32 * 2  # samples, positions, choices
    assert "top 2, capacity 1.25" in out


def test_what_compression_loses(capsys):
    _, out, _ = explain(capsys, "compression", "--model", "tiny", "-n", "2")
    found = re.findall(r"^(\w+).* ([\d.e+-]+) % of the bytes, error ([\d.e+-]+) %$", out, re.M)
    part, error = ({name: float(row[n]) for name, *row in found} for n in (0, 1))
    assert part["float16"] == part["bfloat16"] == 50
    assert error["float16"] < error["bfloat16"] < error["int8"] < 2
    assert part["topk"] < part["int8"] < 30
    assert 10 < error["topk"] < 100
    assert 1 < error["powersgd"] < 100


def test_overlap_hides_sums(capsys):
    """Several buckets, of which that of the tied embedding is final at the end."""
    _, out, _ = explain(capsys, "overlap", "--model", "tiny", "-n", "2", "--bucket-bytes", "64KiB")
    assert int(re.search(r"(\d+) % of the sums hidden", out)[1]) > 0
    assert "3 in block 1, 3 in block 0, 1 in embedding." in " ".join(out.split())


MESHES = [
    {"mesh": "dp=2", "bucket_bytes": 65536, "accumulate": 2},
    {"mesh": "dp=2", "zero": 1},
    {"mesh": "dp=2", "zero": 2, "accumulate": 2},
    {"mesh": "dp=2", "zero": 3, "recompute": "blocks"},
    {"mesh": "tp=2", "sequence": True},
    {"mesh": "tp=2", "model": "llama"},
    {"mesh": "ep=2", "experts": 4},
    {"mesh": "cp=2"},
]


def calls(mesh):
    """How often this rank has called each collective in the mesh's groups."""
    found = Counter()
    for group in {id(group): group for group in (mesh.world, *mesh._groups.values())}.values():
        for name, each in group.stats()["operations"].items():
            found[name] += each["calls"]
    return found


def rehearsed_as_run(world):
    for options in MESHES:
        config = make_config("tiny", options=options)
        real = Rehearsal(config, world.size, world=world)
        before = calls(real.mesh)
        real.run()
        events = Rehearsal(config, world.size, world.rank).run()
        counted = calls(real.mesh) - before
        del counted["recv"]
        assert counted == Counter(e.what for e in events if e.nbytes), options


def test_a_rehearsal_makes_the_calls_of_a_real_step(ranks):
    ranks(2).run(rehearsed_as_run)


WRONG = {
    "heads": (["tensor", "-n", "3"], "4 heads cannot be cut into tp=3 parts; tp can be 1, 2, 4"),
    "no ranks": (["zero", "-n", "0"], "not in the range x>=1"),
    "no length": (["zero", "--mesh", "dp=0"], "dp is '0'; it must be a whole number of at least 1"),
    "many ranks": (["zero", "-n", "1000"], "1000 ranks; a step is rehearsed on up to 32"),
    "many blocks": (["memory", "--n-layer", "100000000000"], "up to 1,000"),
    "many micro-batches": (["accumulation", "--accumulate", "100000"], "up to 1,000"),
    "many positions": (["context", "--block-size", "999999999999"], "is not in the range"),
    "many in a mesh": (["tensor", "--mesh", "dp=500,tp=2"], "1000 ranks; a step is rehearsed"),
    "other axis": (["zero", "--mesh", "tp=2"], "a mesh with dp=1: there is nothing to show; dp=2"),
    "pipeline": (["tensor", "--mesh", "tp=2,pp=2"], "a mesh with pp=2: one stage is rehearsed"),
    "misfit": (["tensor", "-n", "3", "--mesh", "tp=2"], "a mesh of tp=2 has 2 ranks, and there ar"),
    "batch": (["zero", "-n", "4", "--batch", "2"], "cannot share a batch of 2"),
    "large": (["tensor", "--n-embd", "4096"], "parameters; a step is rehearsed of presets and of"),
    "experts": (
        ["experts", "-n", "2", "--experts", "3"],
        "3 experts cannot be cut into ep=2 parts",
    ),
    "model": (["memory", "--model", "gpt-9"], "there is no model gpt-9; there are"),
    "its option": (
        ["memory", "--model", "gpt2", "--n-layer", "2"],
        "--n-layer is for a preset, gp",
    ),
    "stages": (["memory", "--mesh", "pp=8"], "4 blocks are too few for 8 stages"),
    "parts": (
        ["memory", "--mesh", "dp=4", "--batch", "6"],
        "a batch of 6 has no equal parts for 4",
    ),
    "program": (["memory", "--program", "x"], "there is no program x; there are ringlet, megatron"),
    "ZeRO": (["zero", "--zero", "4"], "there is no stage 4 of ZeRO"),
    "length": (["context", "--block-size", "12"], "a sequence of 12 positions cannot be cut into"),
    "compressor": (["compression", "--compress", "zip"], "there is no compressor 'zip'; there are"),
    "cluster": (["overlap", "--cluster", "none.toml"], "none.toml"),
    "no plan": (["plan", "none.toml"], "none.toml"),
    "too large": (
        ["context", "-n", "64", "--svg", "x.svg"],
        "a picture of 20672 boxes is too larg",
    ),
    "no folder": (["memory", "--svg", "nowhere/x.svg"], "cannot write nowhere/x.svg: No such"),
    "topic": (["memroy"], "; and other topics: collective, pipeline, tensor, seq"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_user_can_mend_is_one_line(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, expected = WRONG[case]
    code, out, err = explain(capsys, *words)
    assert (code, out) == (2, "")
    assert expected in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_every_topic_has_its_picture(plan_file, capsys, tmp_path):
    pages = "\n".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    drawn = re.findall(
        rf"^ringlet explain ({'|'.join(CASES)}) .*--svg docs/(pictures/\S+)$", pages, re.MULTILINE
    )
    assert {topic for topic, _ in drawn} == {*CASES}
    assert all(f"](../{picture})" in pages for _, picture in drawn)
    assert explain(capsys, "plan", plan_file, "--svg", "plan.svg")[0] == 0
    assert (tmp_path / "plan.svg").read_text() == (ROOT / "docs/pictures/plan.svg").read_text()
    assert "](../pictures/plan.svg)" in pages
