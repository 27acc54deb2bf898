"""Drawings: what they say, that they are always the same, and that an XML reader takes them."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from ringlet.comm import ScheduleError
from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.draw import draw_text
from ringlet.comm.schedules.picture import draw_svg
from ringlet.comm.schedules.prove import prove
from ringlet.comm.schedules.schedule import Schedule, Send
from ringlet.comm.schedules.trace import trace

EVERY = [(operation, name) for operation, names in ALGORITHMS.items() for name in names]
SVG = "{http://www.w3.org/2000/svg}"

RING = """\
start     sends    0     1     2
  rank 0           0     0     0
  rank 1           1     1     1
  rank 2           2     2     2

round 1   sends    0     1     2
  rank 0  2 to 1   0    +02    0
  rank 1  0 to 2   1     1    +01
  rank 2  1 to 0  +12    2     2

round 2   sends    0     1     2
  rank 0  1 to 1  +all   02    0
  rank 1  2 to 2   1    +all   01
  rank 2  0 to 0   12    2    +all

round 3   sends    0     1     2
  rank 0  0 to 1   all   02   >all
  rank 1  1 to 2  >all   all   01
  rank 2  2 to 0   12   >all   all

round 4   sends    0     1     2
  rank 0  2 to 1   all  >all   all
  rank 1  0 to 2   all   all  >all
  rank 2  1 to 0  >all   all   all

02: the values of ranks 0 and 2, combined; all: of all ranks. Nothing yet: a dot.
In this round: + combined with what came, > replaced by it.
"""


def test_text_shows_what_is_sent_and_what_is_held():
    assert draw_text(trace(schedule("all_reduce", "ring", 3))) == RING


def test_text_of_an_all_to_all_names_both_ends():
    text = draw_text(trace(schedule("all_to_all", "pairwise", 3)))
    assert "slots from 3 on are" in text
    assert ">1>0" in text
    assert text.count("start") == 1


def test_text_groups_slots_that_travel_together():
    text = draw_text(trace(schedule("all_reduce", "halving_doubling", 8)))
    assert "4-7 to 1" in text
    assert text.count("round ") == 6
    assert "0,2 to 2" in draw_text(trace(schedule("all_to_all", "bruck", 4)))


def test_text_of_many_ranks_names_ranges():
    text = draw_text(trace(schedule("all_reduce", "recursive_doubling", 16)))
    assert "+0-3" in text
    assert text.count("+all") == 16


@pytest.mark.parametrize(("operation", "algorithm"), EVERY)
def test_a_trace_ends_with_what_was_promised(operation, algorithm):
    for size in (1, 2, 3, 5, 8):
        for segments in (1, 3):
            collective = schedule(operation, algorithm, size)
            proof, followed = prove(collective, segments), trace(collective, segments)
            assert followed.rounds == (proof.rounds if segments == 1 else proof.slot_times)
            assert len(followed.transfers) == sum(proof.sent) * segments
            assert all(1 <= transfer.round <= followed.rounds for transfer in followed.transfers)
            for rank, slots in enumerate(followed.promised):
                assert all(followed.finished(followed.rounds, rank, slot) for slot in slots)


@pytest.mark.parametrize(("operation", "algorithm"), EVERY)
def test_a_picture_is_well_formed_and_always_the_same(operation, algorithm):
    for size, segments in [(1, 1), (2, 3), (4, 1), (8, 1), (11, 1)]:
        collective = schedule(operation, algorithm, size)
        svg = draw_svg(trace(collective, segments))
        assert svg == draw_svg(trace(schedule(operation, algorithm, size), segments))
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert root.find(f"{SVG}title").text == str(collective)
        words = [text.text for text in root.iter(f"{SVG}text")]
        assert f"{operation}: {algorithm}".replace("_", "-") == words[0]
        assert [word for word in words if word.startswith("rank")] == [
            f"rank {rank}" for rank in range(size)
        ]
        assert "nan" not in svg
        check_arrows(root, trace(collective, segments))
        check_inside(root)


def check_arrows(root, followed):
    curves = [path for path in root.iter(f"{SVG}path") if path.get("fill") == "none"]
    drawn = curves[: len(followed.transfers)]  # those of the legend come last
    assert len(curves) - len(drawn) in (1, 2)
    dashed = [path.get("stroke-dasharray") is not None for path in drawn]
    assert dashed == [not transfer.combined for transfer in followed.transfers]


def check_inside(root):
    """Nothing sticks out, and the ranks' names do not touch."""
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter(f"{SVG}rect"):
        assert float(box.get("x", 0)) + float(box.get("width")) <= width
        assert float(box.get("y", 0)) + float(box.get("height")) <= height
    names = [text for text in root.iter(f"{SVG}text") if text.text.startswith("rank")]
    middles = [float(name.get("x")) for name in names]
    assert all(b - a >= 36 for a, b in pairwise(middles))
    for text in root.iter(f"{SVG}text"):
        assert (
            float(text.get("x")) + 6.5 * len(text.text) * (text.get("text-anchor") is None) < width
        )
        assert float(text.get("y")) < height


def test_every_rank_has_a_colour_of_its_own():
    for size in (2, 8, 16):
        root = ElementTree.fromstring(draw_svg(trace(schedule("barrier", "dissemination", size))))
        boxes = [box for box in root.iter(f"{SVG}rect") if box.get("shape-rendering")]
        assert len({box.get("fill") for box in boxes[:size]}) == size


def test_names_are_escaped():
    collective = Schedule("broadcast", "<&>", 1, 1, 0, ((),))
    assert "&lt;&amp;&gt;" in draw_svg(trace(collective))
    ElementTree.fromstring(draw_svg(trace(collective)))


def test_a_wrong_schedule_is_not_drawn():
    collective = Schedule("broadcast", "wrong", 2, 1, 0, ((Send(1, 0),), ()))
    for draw in (draw_text, draw_svg):
        with pytest.raises(ScheduleError, match="unread"):
            draw(trace(collective))
