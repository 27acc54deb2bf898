"""A curve in characters: braille, whose dots are two across and four down, or ASCII."""

from collections.abc import Sequence

import numpy as np

from ringlet.launcher.commands.watch.curve import Point

LABEL = 8
"""Columns for the values on the left."""

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character's dots, by row and column (Unicode, U+2800)."""


def drawn(
    curve: Sequence[Point], marks: Sequence[Point], width: int, rows: int, unicode: bool
) -> list[str]:
    """The curve from its least to its greatest values, `marks` as o, and a line with the steps:
    rows + 1 lines."""
    across, down = (2, 4) if unicode else (1, 1)
    columns = max(width - LABEL - 1, 8)
    first = min(point.step for point in (curve[0], *marks[:1]))
    last = max(curve[-1].step, first + 1)
    low = min(point.least for point in (*curve, *marks))
    high = max(point.most for point in (*curve, *marks))
    height = high - low or 1.0

    def place(value: float, dots: int) -> int:
        """The row of dots of a value, from the top."""
        return round((high - value) / height * (dots - 1))

    steps = [point.step for point in curve]
    at = np.linspace(first, last, columns * across)
    least = np.interp(at, steps, [point.least for point in curve])
    most = np.interp(at, steps, [point.most for point in curve])
    cells = [[0] * columns for _ in range(rows)]
    for dot in range(columns * across):
        before = max(dot - 1, 0)  # joined with the one before
        top = place(max(most[dot], least[before]), rows * down)
        bottom = place(min(least[dot], most[before]), rows * down)
        for row in range(top, bottom + 1):
            cells[row // down][dot // across] |= DOTS[row % down][dot % across]
    shown = [[_character(bits, unicode) for bits in line] for line in cells]
    for mark in marks:
        if first <= mark.step <= last:
            column = round((mark.step - first) / (last - first) * (columns - 1))
            shown[place(mark.mean, rows)][column] = "o"
    labels = {0: high, rows - 1: low}
    lines = [
        (f"{labels[row]:.3g}" if row in labels else "").rjust(LABEL) + " " + "".join(line)
        for row, line in enumerate(shown)
    ]
    ends = f"step {first:,}", f"step {curve[-1].step:,}"
    key = "loss (o: validation)" if marks else "loss"
    axis = ends[0] + key.center(max(columns - len(ends[0]) - len(ends[1]), 0)) + ends[1]
    return [*lines, " " * (LABEL + 1) + axis]


def _character(bits: int, unicode: bool) -> str:
    if unicode:
        return chr(0x2800 + bits)
    return "*" if bits else " "
