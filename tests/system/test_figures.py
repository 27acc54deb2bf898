"""The interactive figures (docs/figures): their data is what the code makes, and they can be used
by keyboard, on any screen, and as a picture without scripts."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from browser import Browser
from waiting import until

from ringlet.comm.schedules.algorithms import schedule
from ringlet.comm.schedules.price import LinkCost, Network, price
from ringlet.comm.schedules.trace import trace
from ringlet.runtime.mesh import AXES, parse_mesh
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.schedules import SCHEDULES
from ringlet.runtime.planning.footprint import footprints
from ringlet.runtime.planning.models import MODELS
from ringlet.runtime.planning.setting import Setting

FOLDER = Path(__file__).resolve().parents[2] / "docs/figures"
PAGES = ("collectives", "pipelines", "memory")


@pytest.fixture(scope="module")
def make():
    """docs/figures/make.py."""
    spec = importlib.util.spec_from_file_location("make_figures", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_data_is_what_the_code_makes_now(make):
    for name, text in make.files().items():
        assert (FOLDER / name).read_text() == text, f"{name}: run python docs/figures/make.py"


def test_some_of_the_data_is_what_the_code_makes_now(make):
    lines = {
        "data_collectives.js": {"4": make.collectives(4)},
        "data_pipelines.js": {"3": make.pipelines(3)},
        "data_memory.js": {name: make.memory(name) for name in make.SHOWN},
    }
    for name, data in lines.items():
        text = "\n".join(make.script(data).splitlines()[1:-1])
        assert text in (FOLDER / name).read_text(), f"{name}: run python docs/figures/make.py"


def test_a_figure_asks_nobody_for_anything():
    for path in FOLDER.iterdir():
        text = path.read_text() if path.suffix in (".html", ".css", ".js") else ""
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
        assert "fetch(" not in text


@pytest.fixture(scope="module")
def browser():
    if shutil.which("chromium") is None:
        pytest.skip("no chromium here")
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser):
    """A figure in the browser, with these values chosen."""

    def open_(name, width=1400, dark=False, **values):
        chosen = "&".join(f"{key}={value}" for key, value in values.items())
        tab = browser.open(f"file://{FOLDER}/{name}.html#{chosen}", width, dark=dark)
        assert until(lambda: tab.value("document.readyState") == "complete")
        assert tab.errors == []
        return tab

    return open_


@pytest.mark.slow
def test_keys_step_and_what_happens_is_said(page):
    tab = page("collectives")
    assert tab.text("#said").startswith("Start: each slot holds its own rank's contribution")
    tab.press("ArrowRight")  # wherever the focus is
    assert tab.text("#said").startswith("Round 1 of 6: rank 0 sends slot 3 to rank 1, which adds")
    tab.value("document.getElementById('step').focus()")
    tab.press("End")
    assert tab.text("#said").endswith("101 ms of 101 ms; done.")
    assert tab.value("document.getElementById('next').disabled")
    assert tab.value("document.getElementById('step').getAttribute('aria-valuetext')") == (
        "round 6 of 6"
    )
    tab.press("ArrowLeft")
    assert tab.text("#said").startswith("Round 5 of 6: ")
    assert tab.value("document.getElementById('said').getAttribute('aria-live')") == "polite"

    moves = "getComputedStyle(document.querySelector('.arrow.new')).animationName"
    tab.value("steps.go(0); steps.go(1)")
    assert tab.value(moves) == "draw"
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    tab.call("Emulation.setEmulatedMedia", features=[still])
    assert tab.value(moves) == "none"

    tab = page("pipelines")
    assert "rank 0: forward of micro-batch 0; rank 1: waits for its first" in tab.text("#said")
    for _ in range(4):
        tab.press("ArrowRight")
    assert "rank 0: idles" in tab.text("#said")
    assert "rank 3: backward of micro-batch 0" in tab.text("#said")


FOCUS = """(() => {
    const one = document.activeElement, style = getComputedStyle(one);
    return [one.name || one.id || one.getAttribute('aria-label'), style.outlineStyle];
})()"""


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_everything_in_order_and_is_seen(page, name):
    tab = page(name, width=380)
    fields = tab.value("[...document.querySelectorAll('select, input')].map((e) => e.name || e.id)")
    seen = []
    while (one := tab.press("Tab") or tab.value(FOCUS))[0]:
        assert one[1] != "none", one
        seen.append(one[0])
        assert len(seen) < 40
    assert [field for field in seen if field in fields] == fields
    assert tab.value("document.documentElement.scrollWidth") <= 380


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_without_scripts_there_is_a_picture(browser, name):
    tab = browser.open("about:blank", 380)
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.call("Page.navigate", url=f"file://{FOLDER}/{name}.html")
    assert until(lambda: tab.value("document.readyState") == "complete")
    picture = "document.querySelector('noscript img')"
    assert until(lambda: tab.value(f"{picture}.complete && {picture}.naturalWidth > 300"))
    assert tab.value(f"{picture}.alt.length > 40 && {picture}.getBoundingClientRect().width <= 380")
    assert not tab.value("document.getElementById('figure').checkVisibility()")


@pytest.mark.slow
def test_a_collective_ends_as_it_is_proven_and_takes_what_it_is_priced(page, make):
    tab = page("collectives")
    chosen = {"size": 2**20, "latency": 2e-3, "bandwidth": 5e8}
    network = Network.uniform(LinkCost(chosen["latency"], chosen["bandwidth"]))
    for ranks in (3, 8):
        for operation, names in make.TEXTBOOK.items():
            for name in names:
                made = schedule(operation, name, ranks)
                values = {"operation": operation, "algorithm": name, "ranks": str(ranks)}
                values |= {"size": "20", "latency": "10", "bandwidth": "5"}
                tab.value(
                    f"for (const [k, v] of Object.entries({json.dumps(values)})) {{"
                    "document.getElementById('form').elements[k].value = v;"
                    "document.getElementById('form').dispatchEvent(new Event('input')); }"
                )
                traced = trace(made)
                held = [
                    [[sorted({rank for rank, _ in slot or ()}) for slot in row] for row in state]
                    for state in traced.states
                ]
                shown = tab.value("states.map((s) => s.map((row) => row.map((h) => holders(h))))")
                assert shown == held, (operation, name, ranks)
                expected = price(made, network, chosen["size"]).seconds
                assert tab.value("until(shown, shown.rounds.length)") == pytest.approx(expected)
                tab.value("steps.go(99)")
                assert tab.text("#said").endswith("; done.")


@pytest.mark.slow
def test_a_pipeline_holds_what_is_counted(page, make):
    tab = page("pipelines")
    count = "shown.rows.map((row) => Math.max(...range(shown.length + 1).map((t) => held(row, t))))"
    for name in SCHEDULES:
        for stages in (2, 6):
            values = json.dumps({"schedule": name, "stages": str(stages), "micro_batches": "6"})
            tab.value(f"chosen = {values}; shown = read(chosen.schedule)")
            assert tab.value(f"({count}).join() === shown.peaks.join()"), (name, stages)
            assert tab.value("shown.rows.every((row) => held(row, shown.length) === 0)")


MESHES = (
    ("llama-7b", "dp=1", 0, 0),
    ("llama-7b", "dp=8,tp=2,pp=4", 1, 1),
    ("llama3-8b", "dp=4,pp=2,cp=4", 3, 0),
    ("gpt3-175b", "dp=128,tp=8,pp=8", 2, 1),
    ("gpt2", "tp=4,cp=8", 3, 0),
)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "mesh", "zero", "again"), MESHES)
def test_memory_is_what_the_planner_counts(page, make, model, mesh, zero, again):
    mesh = {axis: 1 for axis in AXES if axis != "ep"} | parse_mesh(mesh)
    tab = page("memory", model=model, zero=zero, again=again, **mesh)
    options = Parallelism(zero=zero, recompute=("blocks",) if again else ())
    setting = Setting(mesh, make.SAMPLES * mesh["dp"], 1, options)
    expected = footprints(MODELS[model], setting)
    shown = tab.value("memory(chosen)")
    assert len(shown) == mesh["pp"]
    for parts, rank in zip(shown, expected, strict=True):
        counted = [getattr(rank, part) / 1e6 for part in make.PARTS]
        assert parts == pytest.approx(counted, rel=1e-3, abs=2.1)  # data is in whole MB


@pytest.mark.slow
def test_a_mesh_that_cannot_be_says_why(page):
    tab = page("memory", model="gpt2", tp=8)
    assert "12 heads cannot be cut into tp=8 parts" in tab.text("#said")
