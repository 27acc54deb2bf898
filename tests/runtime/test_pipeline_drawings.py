"""Schedules as text and as pictures."""

import re
from xml.etree import ElementTree

import pytest

from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.draw import draw_text
from ringlet.runtime.pipeline.picture import draw_svg
from ringlet.runtime.pipeline.schedules import SCHEDULES, make_schedule

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


DRAWN = {
    ("1f1b", 3, 4, 1): """\
rank 0  0 1 2 . . . . <0- 3 <1- . <2- . <3-
rank 1  . 0 1 . . <0- 2 <1- 3 <2- . <3- . .
rank 2  . . 0 <0- 1 <1- 2 <2- 3 <3- . . . .

2: forward of micro-batch 2, <2: backward, dots: idle.
""",
    ("zero-bubble", 2, 3, 1): """\
rank 0  0  1  .  <0 =0 2  <1 =1 <2 =2
rank 1  .  0  <0 1  <1 =0 2  <2 =1 =2

2: forward of micro-batch 2, <2: backward to the inputs, =2: to the weights, dots: idle.
""",
    ("zb-h2", 3, 5): """\
rank 0  0  1  2  3  4  <0 =0 <1 =1 <2 =2 <3 =3 <4 =4 .  .
rank 1  .  0  1  2  <0 3  <1 4  <2 =0 <3 =1 <4 =2 =3 =4 .
rank 2  .  .  0  <0 1  <1 2  <2 3  <3 4  <4 =0 =1 =2 =3 =4

2: forward of micro-batch 2, <2: backward to the inputs, =2: to the weights, dots: idle.
""",
    ("zb-v", 2, 3): """\
rank 0  0a  1a  2a  0b  <0b =0b 1b  <1b =1b <0a =0a 2b  <2b =2b <1a =1a <2a =2a .
rank 1  .   0a  0b  1a  1b  <0b =0b 2a  <0a =0a 2b  <1b =1b <1a <2b <2a =1a =2b =2a

2a: forward of micro-batch 2, <2a: backward to the inputs, =2a: to the weights, a to b: chunks,
dots: idle.
""",
    ("interleaved", 2, 2, 2): """\
rank 0  0a 1a 0b 1b .  .  <0b-- .  <1b-- <0a-- <1a--
rank 1  .  0a 1a 0b <0b-- 1b <1b-- <0a-- <1a-- .  .

2a: forward of micro-batch 2, <2a: backward, a to b: chunks, dots: idle.
""",
}


@pytest.mark.parametrize("case", DRAWN)
def test_drawings(case):
    assert draw_text(make_schedule(*case)) == DRAWN[case]


def test_long_drawings_go_on_below():
    drawn = draw_text(make_schedule("1f1b", 4, 16), width=60)
    blocks = drawn.split("\n\n")
    assert len(blocks) == 5
    assert all(
        line.startswith(f"rank {i}") for b in blocks[:4] for i, line in enumerate(b.split("\n"))
    )
    assert max(map(len, drawn.splitlines())) <= 60
    assert drawn.count("<15-") == 4


@pytest.mark.parametrize("scale", [1e-5, 0.37, 1000])
@every_schedule
def test_labels_fit_at_any_cost(name, scale):
    costs = Costs(1.37 * scale, 0.9 * scale, 1.1 * scale, 0.2 * scale, 0.1 * scale)
    schedule = make_schedule(name, 3, 11)
    drawn = draw_text(schedule, costs, width=100_000)
    for rank, line in enumerate(drawn.splitlines()[:3]):
        labels = re.findall(r"[<=]?\d+[abc]?", line.removeprefix(f"rank {rank}"))
        assert len(labels) == len(schedule.compute[rank])


@every_schedule
def test_pictures(name):
    for costs in (Costs(), Costs(0.25, 1e-3, 0.5, transfer=0.1)):
        schedule = make_schedule(name, 3, 5)
        root = ElementTree.fromstring(draw_svg(schedule, costs))
        paths = "".join(p.get("d") for p in root.findall("{*}path[@stroke='#ffffff']"))
        blocks = re.findall(r"M(\S+) \S+h([\d.]+)v", paths)
        assert len(blocks) == sum(map(len, schedule.compute))
        right = float(root.get("width"))
        assert all(float(x) + float(width) < right for x, width in blocks)
        words = {element.text for element in root.findall("{*}text")}
        assert {f"pipeline: {name}", "rank 2", "idle"} <= words
        assert ("message" in words) == bool(costs.transfer)
