"""Lines over axes: what is drawn of many points, where ticks are, and that pictures are whole."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ringlet.comm.schedules import svg
from ringlet.comm.schedules.lines import PARTS, WIDTH, Axis, Line, draw_lines, short, thin


def test_a_long_line_keeps_its_highest_and_lowest_points():
    x = np.arange(100_000.0)
    y = np.sin(x / 1000)
    y[77_777], y[33_333], y[5] = 9.0, -9.0, math.nan
    drawn = thin(Line("", x, y), 0.0, 99_999.0)
    assert len(drawn.x) == PARTS
    assert (max(drawn.high), min(drawn.low)) == (9.0, -9.0)
    assert all(np.less_equal(drawn.low, drawn.mean) & np.less_equal(drawn.mean, drawn.high))
    np.testing.assert_allclose(drawn.mean[3:9], np.sin(np.array(drawn.x[3:9]) / 1000), atol=0.02)
    assert len(draw_lines("loss", [Line("", x, y)], "steps")) < 20_000


def test_a_short_line_is_drawn_as_it_is():
    drawn = thin(Line("", [1, 2, 3, 4], [5.0, math.inf, math.nan, 6.0]), 1, 4)
    assert drawn == ([1, 4], [5.0, 6.0], [], [])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.91, 1.32, [1.0, 1.1, 1.2, 1.3]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (2e-5, 1e-3, [2e-4, 4e-4, 6e-4, 8e-4, 1e-3]),
    ],
)
def test_ticks_are_round_and_apart(low, high, ticks):
    assert Axis(low, high, 0.0, 300.0).ticks(45) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1500, "1500"), (20_000, "20k"), (3e6, "3M"), (0.3, "0.3"), (2e-5, "2e-05")],
)
def test_ticks_are_short(value, text):
    assert short(value) == text


ODD = {
    "nothing": [],
    "no points": [Line("a", [], [])],
    "not a number": [Line("a", [1.0, 2.0], [math.nan, math.nan])],
    "one point": [Line("a", [3.0], [0.0])],
    "always the same": [Line("a", [1.0, 2.0], [7.0, 7.0]), Line("b", [1.0], [7.0])],
    "very large": [Line("a", [1.0, 2.0], [-1e299, 1e299])],
    "very close": [Line("a", [1.0, 2.0], [1.0, 1.0 + 4e-16])],
    "names": [Line("<a & b>", [1.0], [1.0]), Line("c" * 99, [1.0], [1.0])],
}


@pytest.mark.parametrize("case", ODD)
def test_whatever_the_points_the_picture_is_whole(case):
    picture = draw_lines("a < b", ODD[case], "steps")
    ElementTree.fromstring(picture)
    assert not re.search(r"nan|inf[^o]", picture)
    numbers = [float(x) for x in re.findall(r'<text x="([\d.-]+)"', picture)]
    assert all(0 <= x <= WIDTH for x in numbers)
    assert max(map(len, re.findall(r">([^<]+)</text>", picture)), default=0) < 50


def contrast(one, other):
    """WCAG 2.2, 1.4.3."""

    def luminance(colour):
        parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        linear = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_words_can_be_read_on_light_and_on_dark_pages():
    for ink in (svg.INK, svg.SOFT):
        for paper in (svg.PAPER, svg.EMPTY):
            assert contrast(ink, paper) >= 4.5
            assert contrast(svg.DARK[ink], svg.DARK[paper]) >= 4.5
