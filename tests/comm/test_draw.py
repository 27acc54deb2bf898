"""Drawings: what they say, that they are always the same, and that an XML reader takes them."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from ringlet.comm import ScheduleError
from ringlet.comm.schedules import svg
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
        drawn = draw_svg(trace(collective, segments))
        assert drawn == draw_svg(trace(schedule(operation, algorithm, size), segments))
        root = ElementTree.fromstring(drawn)
        assert root.tag == f"{SVG}svg"
        assert root.find(f"{SVG}title").text == str(collective)
        words = [text.text for text in root.iter(f"{SVG}text")]
        assert f"{operation}: {algorithm}".replace("_", "-") == words[0]
        assert [word for word in words if word.startswith("rank")] == [
            f"rank {rank}" for rank in range(size)
        ]
        assert "nan" not in drawn
        check_arrows(root, trace(collective, segments))
        check_inside(root)


def check_arrows(root, followed):
    curves = [path for path in root.iter(f"{SVG}path") if "C" in path.get("d")]
    legend = 2 if followed.schedule.reduces else 1  # which comes last
    drawn = curves[:-legend]
    for dashed in (False, True):
        of_kind = [path for path in drawn if (path.get("stroke-dasharray") is not None) == dashed]
        count = sum(transfer.combined != dashed for transfer in followed.transfers)
        assert sum(path.get("d").count("C") for path in of_kind) == count


def check_inside(root):
    """Nothing sticks out, and the ranks' names do not touch."""
    width, height = float(root.get("width")), float(root.get("height"))
    for path in root.iter(f"{SVG}path"):
        for x, y, wide, high in re.findall(r"M(\S+) (\S+)h([\d.]+)v([\d.]+)h-", path.get("d")):
            assert float(x) + float(wide) <= width
            assert float(y) + float(high) <= height
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
        assert len({stop.get("stop-color") for stop in root.iter(f"{SVG}stop")}) == size


def test_pictures_of_16_ranks_are_small():
    """The largest: more than 25 MB if every cell were drawn in every round."""
    drawn = draw_svg(trace(schedule("all_reduce", "bidirectional_ring", 16)))
    assert len(drawn) < 300_000


def test_a_dark_page_gets_a_dark_picture():
    drawn = draw_svg(trace(schedule("all_reduce", "ring", 2)))
    for light, dark in svg.DARK.items():
        assert f'="{light}"' in drawn
        assert f'[fill="{light}"]{{fill:{dark}}}' in drawn


def test_names_are_escaped():
    collective = Schedule("broadcast", "<&>", 1, 1, 0, ((),))
    assert "&lt;&amp;&gt;" in draw_svg(trace(collective))
    ElementTree.fromstring(draw_svg(trace(collective)))


def test_a_wrong_schedule_is_not_drawn():
    collective = Schedule("broadcast", "wrong", 2, 1, 0, ((Send(1, 0),), ()))
    for draw in (draw_text, draw_svg):
        with pytest.raises(ScheduleError, match="unread"):
            draw(trace(collective))
