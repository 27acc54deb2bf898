"""Operators between those that were measured."""

import pytest

from ringlet.runtime.planning.device import Device, Measured, Operation

LINES = Device(
    1e9, 1e9, {"float32": 1e9},
    operators=(
        Measured("linear", (100, 64, 64), 1e-3), Measured("linear", (300, 64, 64), 2e-3),
        Measured("linear", (100, 192, 64), 4e-3), Measured("gelu", (10, 100), 1e-5),
        Measured("gelu", (30, 100), 3e-5), Measured("gelu", (300, 10), 5e-5),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "seconds"),
    [
        ("linear", (200, 64, 64), 1.5e-3),
        ("linear", (100, 128, 64), 2.5e-3),
        ("linear", (500, 64, 64), 3e-3),
        ("linear", (50, 64, 64), 0.75e-3),
        ("linear", (100, 32, 64), 0.5e-3),  # not less than half for half of the work
        ("gelu", (20, 100), 2.5e-5),  # two of the same size count as their mean
        ("gelu", (5, 100), 0.5e-5),
    ],
)
def test_between_two_that_were_measured_a_line_leads(name, shape, seconds):
    assert LINES.seconds(Operation(name, shape, 1e9, 1e9), "float32") == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("linear", (2000, 64, 64)), ("linear", (10, 64, 64)), ("linear", (200, 64, 65)),
        ("linear_inputs", (200, 64, 64)), ("gelu", (1, 10)), ("norm", (20, 100)),
    ],
)  # fmt: skip
def test_far_from_all_that_was_measured_the_roofline_counts(name, shape):
    assert LINES.seconds(Operation(name, shape, 1e9, 1e9), "float32") == pytest.approx(1.0)
